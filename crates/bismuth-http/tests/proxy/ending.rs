//! How exchanges end when a peer disconnects, breaks off or sends nothing.

use std::time::Duration;

use crate::harness::{GET, Settings, ask_through, ask_with, proxy, run, signal, upstream};

const PART: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n";
const HI: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
/// Nothing that a test waits for in vain.
const SHORT: Duration = Duration::from_millis(50);

#[test]
fn a_response_that_breaks_off_breaks_towards_the_client() {
    for part in [PART, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"] {
        run(async {
            let mut client = ask_through(GET, move |mut peer| async move {
                peer.answer(part).await;
            })
            .await;
            client.head().await;
            let body = client.until_end().await;
            assert!(body.contains("part"), "what came before the break arrives");
            assert!(!body.contains("0\r\n\r\n"), "no clean end: {body:?}");
        });
    }
}

#[test]
fn a_client_that_leaves_takes_the_upstream_connection_with_it() {
    run(async {
        let (reached, gone) = (signal(), signal());
        let client = ask_through(GET, move |mut peer| async move {
            peer.head().await;
            reached.notify_one();
            assert_eq!(peer.until_end().await, "");
            gone.notify_one();
        })
        .await;
        reached.notified().await;
        // A reset is never a half-close.
        client.reset();
        gone.notified().await;
    });
}

#[test]
fn a_client_that_leaves_a_stream_takes_the_upstream_connection_with_it() {
    run(async {
        let gone = signal();
        let mut client = ask_through(GET, move |mut peer| async move {
            peer.answer(PART).await;
            peer.until_end().await;
            gone.notify_one();
        })
        .await;
        client.until("part").await;
        client.reset();
        gone.notified().await;
    });
}

#[test]
fn a_client_that_ends_its_side_with_its_request_still_gets_the_answer() {
    run(async {
        let ended = signal();
        let mut client = ask_through(GET, move |mut peer| async move {
            peer.head().await;
            ended.notified().await;
            peer.send(HI).await;
        })
        .await;
        client.finish_sending().await;
        ended.notify_one();
        let answer = client.until_end().await;
        assert!(answer.ends_with("\r\n\r\nhi"), "{answer:?}");
    });
}

#[test]
fn without_a_half_close_window_a_client_that_ends_its_side_with_its_request_has_left() {
    run(async {
        let mut settings = Settings::default();
        settings.limits.half_close_window = Duration::ZERO;
        let mut client = ask_with(settings, GET, |mut peer| async move {
            peer.until_end().await;
        })
        .await;
        client.finish_sending().await;
        assert_eq!(client.until_end().await, "");
    });
}

#[test]
fn an_upstream_that_closes_without_a_word_is_known_to_have_been_written_to() {
    run(async {
        let mut client = ask_through(GET, |mut peer| async move {
            peer.head().await;
        })
        .await;
        assert!(client.head().await.contains("x-bismuth-error: broken"));
    });
}

#[test]
fn an_upstream_that_does_not_speak_http_is_named_so() {
    run(async {
        let mut client = ask_through(GET, |mut peer| async move {
            peer.answer("SSH-2.0-OpenSSH_9.2\r\n").await;
            peer.until_end().await;
        })
        .await;
        assert!(client.head().await.contains("x-bismuth-error: malformed"));
    });
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_not_used_again() {
    run(async {
        let closed = signal();
        let upstream = upstream(move |mut peer| async move {
            peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            drop(peer);
            closed.notify_one();
        })
        .await;
        let mut client = proxy(upstream.addr).await.connect().await;
        for _ in 0..20 {
            client
                .send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
                .await;
            assert!(client.head().await.starts_with("http/1.1 200"));
            closed.notified().await;
        }
        assert_eq!(upstream.accepted.get(), 20);
    });
}

#[test]
fn a_late_head_and_a_body_that_the_client_does_not_send_have_codes_of_their_own() {
    let mut late = Settings::default();
    late.deadlines.head = SHORT;
    let mut silent = Settings::default();
    silent.deadlines.idle = SHORT;
    let half = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf";
    for (settings, request, code) in [
        (late, GET, "head_timeout"),
        (silent, half, "request_silent"),
    ] {
        run(async {
            let mut client = ask_with(settings, request, |mut peer| async move {
                peer.until_end().await;
            })
            .await;
            let answer = client.head().await;
            assert!(
                answer.contains(&format!("x-bismuth-error: {code}")),
                "{answer}"
            );
        });
    }
}

#[test]
fn silence_in_a_stream_breaks_it() {
    run(async {
        let mut settings = Settings::default();
        settings.deadlines.idle = SHORT;
        let mut client = ask_with(settings, GET, |mut peer| async move {
            peer.answer(PART).await;
            peer.until_end().await;
        })
        .await;
        client.until("part\r\n").await;
        assert_eq!(client.until_end().await, "");
    });
}

#[test]
fn draining_answers_what_is_in_flight_and_closes_what_is_idle() {
    run(async {
        let (reached, go) = (signal(), signal());
        let upstream = upstream(move |mut peer| async move {
            peer.head().await;
            reached.notify_one();
            go.notified().await;
            peer.send(HI).await;
        })
        .await;
        let proxy = proxy(upstream.addr).await;
        let mut idle = proxy.connect().await;
        let mut busy = proxy.ask(GET).await;
        reached.notified().await;
        proxy.drain.send_replace(true);
        assert_eq!(idle.until_end().await, "");
        go.notify_one();
        assert!(busy.head().await.contains("connection: close"));
        assert_eq!(busy.until_end().await, "hi");
    });
}
