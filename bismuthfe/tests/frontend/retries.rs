//! Which requests are retried, on which backend, and which never are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bismuthfe::config::Config;
use tokio::sync::Semaphore;

use crate::harness::{
    Nodes, frontend, frontend_with, function, invoke, ok, snapshot, unknown_container,
    within_timeout,
};

#[tokio::test]
async fn a_request_to_a_node_that_is_down_is_sent_to_the_next() {
    let nodes = Nodes::new().await;
    let (down, up) = (nodes.nobody(), nodes.start(|_| ok("up")).await);
    // Whichever comes first in the function's order.
    for list in [[(down, 1), (up.ip, 2)], [(down, 2), (up.ip, 1)]] {
        let frontend = frontend(nodes.port, snapshot(function(&list))).await;
        for _ in 0..4 {
            assert!(frontend.post(&invoke(), "body").await.ends_with("up"));
        }
    }
    assert!(up.seen().iter().all(|request| request.ends_with("body")));
}

#[tokio::test]
async fn when_no_node_can_be_reached_the_problem_names_one_and_may_be_retried() {
    let nodes = Nodes::new().await;
    let down = nodes.nobody();
    let frontend = frontend(nodes.port, snapshot(function(&[(down, 1)]))).await;
    let answer = frontend.get(&invoke()).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("node_unreachable") && answer.contains(&down.to_string()),
        "{answer}"
    );
    assert!(answer.contains("\"retryable\":true"), "{answer}");
}

#[tokio::test]
async fn a_request_to_a_slot_unknown_to_its_node_is_sent_to_the_next_with_its_body() {
    let nodes = Nodes::new().await;
    let without = nodes.start(|_| unknown_container()).await;
    let with = nodes.start(|_| ok("executed")).await;
    for list in [
        [(without.ip, 1), (with.ip, 2)],
        [(without.ip, 2), (with.ip, 1)],
    ] {
        let frontend = frontend(nodes.port, snapshot(function(&list))).await;
        assert!(
            frontend
                .post(&invoke(), "not idempotent")
                .await
                .ends_with("executed")
        );
        assert!(with.seen().pop().unwrap().ends_with("not idempotent"));
    }
    assert_eq!(with.seen().len(), 2);
}

#[tokio::test]
async fn a_new_slot_is_retried_until_its_node_knows_it() {
    let nodes = Nodes::new().await;
    let asked = AtomicUsize::new(0);
    let node = nodes
        .start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0..3 => unknown_container(),
            _ => ok("known now"),
        })
        .await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
    assert!(
        frontend
            .post(&invoke(), "once")
            .await
            .ends_with("known now")
    );
    assert_eq!(node.seen().len(), 4);
}

#[tokio::test]
async fn a_slot_that_stays_unknown_is_given_up_after_the_timeout() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| unknown_container()).await;
    let config = Config {
        node_port: nodes.port,
        new_slot_timeout: Duration::from_millis(100),
        ..Config::default()
    };
    let frontend = frontend_with(config, snapshot(function(&[(node.ip, 1)]))).await;
    let answer = frontend.get(&invoke()).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("container_not_ready"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
}

#[tokio::test]
async fn while_every_node_is_down_at_most_a_fifth_of_the_requests_plus_ten_are_retried() {
    let nodes = Nodes::new().await;
    let routed = snapshot(function(&[(nodes.nobody(), 1), (nodes.nobody(), 2)]));
    let frontend = frontend(nodes.port, routed).await;
    // Each on a connection of its own, so that every worker has some.
    for _ in 0..100 {
        let answer = frontend.get(&invoke()).await;
        assert!(answer.contains("node_unreachable"), "{answer}");
    }
    // The first request found the budget full, and earned nothing.
    let metrics = frontend.monitor("/metrics").await;
    assert!(
        metrics.contains("bismuthfe_retries_total 29\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn waiting_for_a_new_slot_does_not_use_the_retry_budget() {
    let nodes = Nodes::new().await;
    let asked = AtomicUsize::new(0);
    let node = nodes
        .start(move |_| match asked.fetch_add(1, Ordering::Relaxed) % 4 {
            3 => ok("known now"),
            _ => unknown_container(),
        })
        .await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
    for _ in 0..20 {
        let answer = frontend.get(&invoke()).await;
        assert!(answer.ends_with("known now"), "{answer}");
    }
}

#[tokio::test]
async fn a_burst_for_new_slots_waits_also_when_no_retry_is_left() {
    let nodes = Nodes::new().await;
    let asked = AtomicUsize::new(0);
    let node = nodes
        .start(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0..60 => unknown_container(),
            _ => ok("known now"),
        })
        .await;
    let two = function(&[(node.ip, 1), (node.ip, 2)]);
    let frontend = frontend(nodes.port, snapshot(two)).await;
    let burst = (0..20).map(|_| async {
        let answer = frontend.get(&invoke()).await;
        assert!(answer.ends_with("known now"), "{answer}");
    });
    futures_util::future::join_all(burst).await;
}

#[tokio::test]
async fn a_request_that_may_have_been_executed_is_not_retried_unless_it_is_idempotent() {
    let nodes = Nodes::new().await;
    let (one, two) = (nodes.start(|_| None).await, nodes.start(|_| None).await);
    let routed = snapshot(function(&[(one.ip, 1), (two.ip, 2)]));
    let frontend = frontend(nodes.port, routed).await;
    let executions = || one.seen().len() + two.seen().len();
    let answer = frontend.post(&invoke(), "pay").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("upstream_broken"), "{answer}");
    assert_eq!(executions(), 1);
    let answer = frontend.get(&invoke()).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert_eq!(executions(), 3);
}

#[tokio::test]
async fn idle_connections_closed_by_the_node_lose_no_request() {
    let nodes = Nodes::new().await;
    let answered = AtomicUsize::new(0);
    // Every second request finds its connection closed after the answer before it.
    let node = nodes
        .start(
            move |_| match answered.fetch_add(1, Ordering::Relaxed) % 3 {
                2 => None,
                _ => ok("hi"),
            },
        )
        .await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
    let mut peer = frontend.connect().await;
    for _ in 0..20 {
        peer.send(&format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", invoke()))
            .await;
        let answer = within_timeout(peer.message()).await.expect("an answer");
        assert!(answer.ends_with("hi"), "{answer}");
    }
}

#[tokio::test]
async fn a_full_container_sends_the_next_request_to_another() {
    let nodes = Nodes::new().await;
    let arrived = Arc::new(Semaphore::new(0));
    let told = arrived.clone();
    let node = nodes
        .start(move |_| {
            told.add_permits(1);
            // An answer that does not end while the test looks.
            Some("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun".into())
        })
        .await;
    let list = [(node.ip, 1), (node.ip, 2), (node.ip, 3)];
    let frontend = frontend(nodes.port, snapshot(function(&list))).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = frontend.connect().await;
        client
            .send(&format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", invoke()))
            .await;
        within_timeout(arrived.acquire()).await.unwrap().forget();
        clients.push(client);
    }
    let slots: std::collections::BTreeSet<_> =
        node.seen().iter().map(|r| r[12..48].to_owned()).collect();
    assert_eq!(slots.len(), 3, "one each while others have room");
}
