//! How exchanges end when a peer disconnects, breaks off or sends nothing.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::harness::{Settings, proxy, proxy_with, run, upstream};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_response_that_breaks_off_breaks_towards_the_client() {
    for head in [
        "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "Content-Length: 100\r\n\r\npart",
    ] {
        run(async {
            let upstream = upstream(move |mut peer| async move {
                peer.head().await;
                peer.send(format!("HTTP/1.1 200 OK\r\n{head}")).await;
            })
            .await;
            let mut client = proxy(upstream.addr).await.ask(GET).await;
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
        let (reached, gone) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (told_reached, told_gone) = (reached.clone(), gone.clone());
        let upstream = upstream(move |mut peer| {
            let (reached, gone) = (told_reached.clone(), told_gone.clone());
            async move {
                peer.head().await;
                reached.notify_one();
                assert_eq!(peer.until_end().await, "");
                gone.notify_one();
            }
        })
        .await;
        let proxy = proxy(upstream.addr).await;
        let client = proxy.ask(GET).await;
        reached.notified().await;
        // A reset is never a half-close.
        client.reset();
        gone.notified().await;
    });
}

#[test]
fn a_client_that_leaves_a_stream_takes_the_upstream_connection_with_it() {
    run(async {
        let gone = Rc::new(Notify::new());
        let told = gone.clone();
        let upstream = upstream(move |mut peer| {
            let gone = told.clone();
            async move {
                peer.head().await;
                peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
                    .await;
                peer.until_end().await;
                gone.notify_one();
            }
        })
        .await;
        let mut client = proxy(upstream.addr).await.ask(GET).await;
        client.until("part").await;
        client.reset();
        gone.notified().await;
    });
}

#[test]
fn a_client_that_ends_its_side_with_its_request_still_gets_the_answer() {
    run(async {
        let ended = Rc::new(Notify::new());
        let told = ended.clone();
        let upstream = upstream(move |mut peer| {
            let ended = told.clone();
            async move {
                peer.head().await;
                ended.notified().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                    .await;
            }
        })
        .await;
        let proxy = proxy(upstream.addr).await;
        let mut client = proxy.connect().await;
        client.send(GET).await;
        client.finish_sending().await;
        ended.notify_one();
        let answer = client.until_end().await;
        assert!(answer.ends_with("\r\n\r\nhi"), "{answer:?}");
    });
}

#[test]
fn without_a_half_close_window_a_client_that_ends_its_side_with_its_request_has_left() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            peer.until_end().await;
        })
        .await;
        let mut settings = Settings::default();
        settings.limits.half_close_window = Duration::ZERO;
        let mut client = proxy_with(upstream.addr, settings).await.ask(GET).await;
        client.finish_sending().await;
        assert_eq!(client.until_end().await, "");
    });
}

#[test]
fn an_upstream_that_closes_without_a_word_is_known_to_have_been_written_to() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            peer.head().await;
        })
        .await;
        let mut client = proxy(upstream.addr).await.ask(GET).await;
        assert!(client.head().await.contains("x-bismuth-error: broken"));
    });
}

#[test]
fn an_upstream_that_does_not_speak_http_is_named_so() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            peer.head().await;
            peer.send("SSH-2.0-OpenSSH_9.2\r\n").await;
            peer.until_end().await;
        })
        .await;
        let mut client = proxy(upstream.addr).await.ask(GET).await;
        assert!(client.head().await.contains("x-bismuth-error: malformed"));
    });
}

#[test]
fn an_idle_connection_that_the_upstream_closed_is_not_used_again() {
    run(async {
        let closed = Rc::new(Notify::new());
        let told = closed.clone();
        let upstream = upstream(move |mut peer| {
            let closed = told.clone();
            async move {
                peer.head().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
                drop(peer);
                closed.notify_one();
            }
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
fn a_head_that_does_not_come_in_time_is_a_timeout() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            peer.until_end().await;
        })
        .await;
        let mut settings = Settings::default();
        settings.deadlines.head = Duration::from_millis(50);
        let mut client = proxy_with(upstream.addr, settings).await.ask(GET).await;
        assert!(
            client
                .head()
                .await
                .contains("x-bismuth-error: head_timeout")
        );
    });
}

#[test]
fn a_body_that_the_client_does_not_send_is_the_clients_timeout() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            peer.until_end().await;
        })
        .await;
        let mut settings = Settings::default();
        settings.deadlines.idle = Duration::from_millis(50);
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf";
        let mut client = proxy_with(upstream.addr, settings).await.ask(request).await;
        assert!(
            client
                .head()
                .await
                .contains("x-bismuth-error: request_silent")
        );
    });
}

#[test]
fn silence_in_a_stream_breaks_it() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n")
                .await;
            peer.until_end().await;
        })
        .await;
        let mut settings = Settings::default();
        settings.deadlines.idle = Duration::from_millis(50);
        let mut client = proxy_with(upstream.addr, settings).await.ask(GET).await;
        client.until("part\r\n").await;
        assert_eq!(client.until_end().await, "");
    });
}

#[test]
fn draining_answers_what_is_in_flight_and_closes_what_is_idle() {
    run(async {
        let (reached, go) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (told, wait) = (reached.clone(), go.clone());
        let upstream = upstream(move |mut peer| {
            let (reached, go) = (told.clone(), wait.clone());
            async move {
                peer.head().await;
                reached.notify_one();
                go.notified().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                    .await;
            }
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
