//! Bodies stream both ways as they come, with back-pressure.

use crate::harness::{GET, ask_through, proxy, run, signal, upstream};

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_connection_to_the_upstream_serves_one_request_after_the_other() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            for _ in 0..3 {
                peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                    .await;
            }
        })
        .await;
        let proxy = proxy(upstream.addr).await;
        let mut client = proxy.connect().await;
        for _ in 0..3 {
            client.send(GET).await;
            assert!(client.head().await.starts_with("http/1.1 200"));
            assert_eq!(client.exactly(2).await, b"hi");
        }
        assert_eq!(upstream.accepted.get(), 1);
    });
}

#[test]
fn events_arrive_one_by_one() {
    run(async {
        let seen = signal();
        let mut client = ask_through(GET, move |mut peer| async move {
            peer.answer("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for event in 0..3 {
                peer.send(format!("9\r\ndata: {event}\n\n\r\n")).await;
                // The next event is not written before the client has this one.
                seen.notified().await;
            }
            peer.send("0\r\n\r\n").await;
        })
        .await;
        client.head().await;
        for event in 0..3 {
            client.until(&format!("data: {event}\n\n")).await;
            seen.notify_one();
        }
        client.until("0\r\n\r\n").await;
    });
}

#[test]
fn an_early_response_arrives_while_the_body_is_still_going_up() {
    run(async {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n";
        let mut client = ask_through(request, |mut peer| async move {
            peer.head().await;
            peer.exactly(4).await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
                .await;
            peer.exactly(4).await;
            peer.send("3\r\ntwo\r\n0\r\n\r\n").await;
        })
        .await;
        client.send("1234").await;
        client.until("one").await;
        client.send("5678").await;
        client.until("two").await;
        client.until("0\r\n\r\n").await;
    });
}

#[test]
fn a_response_that_comes_instead_of_reading_the_body_is_not_lost() {
    run(async {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
        let mut client = ask_through(request, |mut peer| async move {
            peer.answer(
                "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
            )
            .await;
        })
        .await;
        // The client goes on sending into a proxy that has its answer already.
        let megabyte = vec![b'x'; 1 << 20];
        for _ in 0..8 {
            if client.try_send(&megabyte).await.is_err() {
                break;
            }
        }
        let answer = client.until_end().await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer:?}");
        assert!(answer.ends_with("\r\n\r\nbig"), "{answer:?}");
    });
}

#[test]
fn trailers_pass_both_ways() {
    run(async {
        let request = "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: up\r\n\r\n";
        let mut client = ask_through(request, |mut peer| async move {
            let head = peer.head().await;
            assert!(head.contains("\r\nte: trailers\r\n"), "{head}");
            let body = peer.until("\r\n\r\n").await;
            assert_eq!(body, "4\r\nbody\r\n0\r\nx-sum: up\r\n\r\n");
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n4\r\nback\r\n0\r\nx-sum: down\r\n\r\n").await;
        })
        .await;
        client.head().await;
        let body = client.until("\r\n\r\n").await;
        assert_eq!(body, "4\r\nback\r\n0\r\nx-sum: down\r\n\r\n");
    });
}

#[test]
fn a_body_goes_up_when_the_upstream_asks_for_it() {
    run(async {
        let mut client = ask_through(EXPECTING, |mut peer| async move {
            let head = peer.head().await;
            assert!(head.contains("expect: 100-continue"), "{head}");
            peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(peer.exactly(4).await, b"body");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
        })
        .await;
        assert_eq!(client.head().await, "http/1.1 100 continue\r\n\r\n");
        client.send("body").await;
        assert!(client.head().await.starts_with("http/1.1 200"));
    });
}

#[test]
fn a_body_that_the_upstream_does_not_want_is_never_asked_for() {
    run(async {
        let mut client = ask_through(EXPECTING, |mut peer| async move {
            peer.answer("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
                .await;
            assert_eq!(peer.until_end().await, "");
        })
        .await;
        assert!(client.head().await.starts_with("http/1.1 417"));
    });
}

#[test]
fn a_client_that_grows_impatient_sends_its_body_unasked() {
    run(async {
        let mut client = ask_through(EXPECTING, |mut peer| async move {
            peer.head().await;
            // An HTTP/1.0 server: it says nothing before it has the body.
            assert_eq!(peer.exactly(4).await, b"body");
            peer.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await;
        })
        .await;
        client.send("body").await;
        client.until("HTTP/1.1 200 OK\r\n").await;
    });
}

#[test]
fn answers_to_head_keep_the_length_and_old_upstreams_end_by_closing() {
    run(async {
        let upstream = upstream(|mut peer| async move {
            let head = peer.head().await;
            match head.starts_with("head") {
                true => {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n")
                        .await
                }
                false => peer.send("HTTP/1.0 200 OK\r\n\r\nuntil the end").await,
            }
        })
        .await;
        let proxy = proxy(upstream.addr).await;
        let mut client = proxy.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.head().await.contains("content-length: 1234\r\n"));
        client.send(GET).await;
        assert!(client.head().await.contains("transfer-encoding: chunked"));
        assert_eq!(
            client.until("0\r\n\r\n").await,
            "D\r\nuntil the end\r\n0\r\n\r\n"
        );
    });
}

/// Peak resident memory of this process so far, in KiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_hundred_megabytes_pass_in_bounded_memory() {
    const LENGTH: u64 = 100 << 20;
    run(async {
        let upstream = upstream(|mut peer| async move {
            let head = peer.head().await;
            if head.starts_with("post") {
                peer.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                    .await;
                let mut received = 0;
                while received < LENGTH {
                    received += peer.exactly(1 << 16).await.len() as u64;
                }
                peer.send(format!("{received}")).await;
                return;
            }
            peer.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"
            ))
            .await;
            let megabyte = vec![b'x'; 1 << 20];
            for _ in 0..LENGTH >> 20 {
                peer.send(&megabyte).await;
            }
        })
        .await;
        let proxy = proxy(upstream.addr).await;
        let before = peak_memory();
        let mut client = proxy
            .ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await;
        client.head().await;
        assert_eq!(client.count_to_end().await, LENGTH);

        let head = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n"
        );
        let mut client = proxy.ask(&head).await;
        let megabyte = vec![b'x'; 1 << 20];
        for _ in 0..LENGTH >> 20 {
            client.send(&megabyte).await;
        }
        assert!(client.until_end().await.contains(&LENGTH.to_string()));
        let grown = peak_memory() - before;
        assert!(grown < 32 * 1024, "grew by {grown} KiB");
    });
}
