//! Request smuggling: ambiguous requests are refused and never forwarded.

use std::cell::RefCell;
use std::rc::Rc;

use crate::harness::{ask_through, proxy, run, upstream};

/// Each after the request line and `Host`, before the empty line.
const AMBIGUOUS_FIELDS: &[&str] = &[
    "Content-Length: 4\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "Content-Length: 4\r\nContent-Length: 5",
    "Content-Length: 4\r\nContent-Length: 4",
    "Content-Length: 4, 5",
    "Content-Length: -1",
    "Content-Length: 4 4",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "Transfer-Encoding:\x0bchunked",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    "X: a\r\n Transfer-Encoding: chunked",
    "X: a\nTransfer-Encoding: chunked",
    "X: a\rTransfer-Encoding: chunked",
    "Host: b",
    "X",
];

/// Whole heads.
const AMBIGUOUS_HEADS: &[&str] = &[
    "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "GET / HTTP/1.1\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\nHost: a\n\n",
    "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
];

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends one request after a good one, and returns what the client and the upstream saw.
async fn send_after_a_good_one(request: &str, pieces: bool) -> (String, Vec<String>) {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let told = seen.clone();
    let upstream = upstream(move |mut peer| {
        let seen = told.clone();
        async move {
            loop {
                let head = peer.until("\r\n\r\n").await;
                seen.borrow_mut().push(head);
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood")
                    .await;
            }
        }
    })
    .await;
    let proxy = proxy(upstream.addr).await;
    let stream = format!("{GOOD}{request}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut client = proxy.connect().await;
    if pieces {
        for piece in stream.as_bytes().chunks(7) {
            if client.try_send(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    } else {
        client.send(&stream).await;
    }
    let answer = client.until_end().await;
    let seen = seen.borrow().clone();
    (answer, seen)
}

fn assert_refused(request: &str) {
    for pieces in [false, true] {
        let case = format!("{request:?} in pieces: {pieces}");
        run(async {
            let (answer, seen) = send_after_a_good_one(request, pieces).await;
            let good_ends = answer
                .find("good")
                .unwrap_or_else(|| panic!("{case}: {answer:?}"))
                + 4;
            let (good, refused) = answer.split_at(good_ends);
            assert!(good.starts_with("HTTP/1.1 200"), "{case}: {answer}");
            assert!(refused.starts_with("HTTP/1.1 400"), "{case}: {answer}");
            assert!(refused.contains("connection: close"), "{case}: {answer}");
            assert!(
                refused.contains("application/problem+json"),
                "{case}: {answer}"
            );
            assert_eq!(seen.len(), 1, "{case}: only the good one passed");
        });
    }
}

#[test]
fn ambiguous_fields_get_400_and_a_closed_connection() {
    for fields in AMBIGUOUS_FIELDS {
        assert_refused(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n0\r\n\r\n"
        ));
    }
}

#[test]
fn ambiguous_heads_get_400_and_a_closed_connection() {
    for head in AMBIGUOUS_HEADS {
        assert_refused(head);
    }
}

#[test]
fn a_body_that_looks_like_a_request_stays_a_body() {
    run(async {
        let body =
            "GET /smuggled HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let length = body.len();
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let mut client = ask_through(&request, move |mut peer| async move {
            peer.head().await;
            assert_eq!(peer.exactly(length).await, body.as_bytes());
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            // Before the answer: without it the client waits in vain, and the test fails.
            let next = peer.head().await;
            assert!(next.starts_with("get /next"), "{next}");
            peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        })
        .await;
        assert!(client.head().await.starts_with("http/1.1 200"));
        assert!(client.head().await.starts_with("http/1.1 204"));
    });
}

#[test]
fn broken_chunks_never_end_cleanly_upstream() {
    run(async {
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = RefCell::new(Some(tell));
        let request =
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n";
        let _client = ask_through(request, move |mut peer| {
            let tell = tell.borrow_mut().take();
            async move {
                let seen = peer.until_end().await;
                if let Some(tell) = tell {
                    tell.send(seen).unwrap();
                }
            }
        })
        .await;
        let seen = told.await.unwrap();
        assert!(!seen.ends_with("0\r\n\r\n"), "{seen:?}");
    });
}
