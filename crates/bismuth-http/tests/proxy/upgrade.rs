//! Upgrades: after a 101 the connection is a tunnel.

use std::time::Duration;

use crate::harness::{GET, Peer, Settings, ask_through, ask_with, run};

const ASK: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

async fn switch(peer: &mut Peer) {
    let head = peer.head().await;
    assert!(head.contains("upgrade: websocket"), "{head}");
    assert!(head.contains("connection: upgrade"), "{head}");
    peer.send(SWITCH).await;
}

async fn assert_switched(client: &mut Peer) {
    let head = client.head().await;
    assert!(head.starts_with("http/1.1 101"), "{head}");
    assert!(head.contains("upgrade: websocket"), "{head}");
}

#[test]
fn an_upgraded_connection_echoes() {
    run(async {
        let mut client = ask_through(ASK, |mut peer| async move {
            switch(&mut peer).await;
            for _ in 0..3 {
                let line = peer.until("\n").await;
                peer.send(format!("echo {line}")).await;
            }
        })
        .await;
        assert_switched(&mut client).await;
        for line in ["one\n", "GET / HTTP/1.1\n", "\x00\x01\r\r\n"] {
            client.send(line).await;
            assert_eq!(client.until("\n").await, format!("echo {line}"));
        }
        assert_eq!(client.until_end().await, "");
    });
}

#[test]
fn bytes_that_come_along_with_the_heads_are_not_lost() {
    run(async {
        let mut client = ask_through(&format!("{ASK}hello from "), |mut peer| async move {
            peer.answer(format!("{SWITCH}hello from upstream\n")).await;
            assert_eq!(peer.until("\n").await, "hello from client\n");
            peer.send("both\n").await;
        })
        .await;
        assert_switched(&mut client).await;
        client.send("client\n").await;
        assert_eq!(client.until("\n").await, "hello from upstream\n");
        assert_eq!(client.until("\n").await, "both\n");
    });
}

#[test]
fn one_direction_may_end_before_the_other() {
    run(async {
        let mut client = ask_through(ASK, |mut peer| async move {
            switch(&mut peer).await;
            let all = peer.until_end().await;
            peer.send(format!("got {all}")).await;
        })
        .await;
        assert_switched(&mut client).await;
        client.send("everything").await;
        client.finish_sending().await;
        assert_eq!(client.until_end().await, "got everything");
    });
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    run(async {
        let mut client = ask_through(ASK, |mut peer| async move {
            for _ in 0..2 {
                peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
                    .await;
            }
        })
        .await;
        assert!(client.head().await.starts_with("http/1.1 200"));
        assert_eq!(client.exactly(2).await, b"no");
        client.send(GET).await;
        assert!(client.head().await.starts_with("http/1.1 200"));
    });
}

#[test]
fn a_silent_tunnel_ends() {
    run(async {
        let mut settings = Settings::default();
        settings.deadlines.idle = Duration::from_millis(50);
        let mut client = ask_with(settings, ASK, |mut peer| async move {
            switch(&mut peer).await;
            peer.until_end().await;
        })
        .await;
        assert_switched(&mut client).await;
        assert_eq!(client.until_end().await, "");
    });
}
