//! Limits on clients: size of a head, number of fields, timeouts.

use std::time::Duration;

use crate::harness::{GET, Settings, ask_with, proxy, proxy_with, run, signal, upstream};

async fn silent() -> std::net::SocketAddr {
    upstream(|mut peer| async move {
        peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            .await;
        peer.until_end().await;
    })
    .await
    .addr
}

/// A request whose head has exactly this many bytes.
fn head_of(bytes: usize) -> String {
    let frame = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n";
    let filler = "x".repeat(bytes - frame.len());
    format!("GET / HTTP/1.1\r\nHost: a\r\nX: {filler}\r\n\r\n")
}

#[test]
fn a_head_of_64_kib_passes_and_one_byte_more_is_too_large() {
    run(async {
        let proxy = proxy(silent().await).await;
        let mut client = proxy.ask(&head_of(64 * 1024)).await;
        assert!(client.head().await.starts_with("http/1.1 200"));
        let mut client = proxy.ask(&head_of(64 * 1024 + 1)).await;
        let answer = client.until_end().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        assert!(answer.contains("\"code\":\"head_too_large\""), "{answer}");
    });
}

#[test]
fn too_many_fields_are_refused() {
    run(async {
        let proxy = proxy(silent().await).await;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
            "a: b\r\n".repeat(100)
        );
        let answer = proxy.ask(&request).await.until_end().await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    });
}

#[test]
fn a_head_that_dribbles_in_is_timed_out() {
    run(async {
        let mut settings = Settings::default();
        settings.limits.head_timeout = Duration::from_millis(50);
        let proxy = proxy_with(silent().await, settings).await;
        let mut client = proxy.connect().await;
        let mut sent = client.try_send(b"GET / HTTP/1.1\r\n").await;
        // A byte every 5 ms, the pace of a slow client, buys no time.
        let answer = loop {
            if sent.is_err() {
                break client.until_end().await;
            }
            tokio::select! {
                answer = client.until_end() => break answer,
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            sent = client.try_send(b"a").await;
        };
        assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        assert!(answer.contains("head_timeout"), "{answer}");
    });
}

#[test]
fn a_connection_that_never_sends_a_byte_is_closed() {
    run(async {
        let mut settings = Settings::default();
        settings.limits.first_byte_timeout = Duration::from_millis(50);
        let proxy = proxy_with(silent().await, settings).await;
        assert_eq!(proxy.connect().await.until_end().await, "");
    });
}

#[test]
fn an_idle_connection_is_closed_after_its_keep_alive() {
    run(async {
        let mut settings = Settings::default();
        settings.limits.keep_alive_timeout = Duration::from_millis(50);
        let proxy = proxy_with(silent().await, settings).await;
        let mut client = proxy.ask(GET).await;
        assert!(client.head().await.starts_with("http/1.1 200"));
        assert_eq!(client.until_end().await, "");
    });
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    run(async {
        let gone = signal();
        let mut settings = Settings::default();
        settings.limits.write_timeout = Duration::from_millis(100);
        let _client = ask_with(settings, GET, move |mut peer| async move {
            peer.answer("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
                .await;
            let megabyte = vec![b'x'; 1 << 20];
            while peer.try_send(&megabyte).await.is_ok() {}
            gone.notify_one();
        })
        .await;
        gone.notified().await;
    });
}
