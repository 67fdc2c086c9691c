//! Which requests are retried, on which backend, and which never are.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::harness::{
    Nodes, assert_contains, frontend, frontend_of_one_slot, function, in_turn, invoke, ok,
    unknown_container, within_timeout, without_end,
};

#[tokio::test]
async fn a_request_to_a_node_that_is_down_is_sent_to_the_next() {
    let nodes = Nodes::new().await;
    let (down, up) = (nodes.nobody(), nodes.start(|_| ok("up")).await);
    // Whichever comes first in the function's order.
    for list in [[(down, 1), (up.ip, 2)], [(down, 2), (up.ip, 1)]] {
        let frontend = frontend(&nodes, function(&list)).await;
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
    let frontend = frontend(&nodes, function(&[(down, 1)])).await;
    let answer = frontend.get(&invoke()).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let address = down.to_string();
    let words = ["node_unreachable", &address, "\"retryable\":true"];
    assert_contains(&answer, &words);
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
        let frontend = frontend(&nodes, function(&list)).await;
        let answer = frontend.post(&invoke(), "not idempotent").await;
        assert!(answer.ends_with("executed"), "{answer}");
        assert!(with.seen().pop().unwrap().ends_with("not idempotent"));
    }
    assert_eq!(with.seen().len(), 2);
}

#[tokio::test]
async fn a_new_slot_is_retried_until_its_node_knows_it() {
    let script = in_turn(|asked| match asked {
        0..3 => unknown_container(),
        _ => ok("known now"),
    });
    let (frontend, node) = frontend_of_one_slot(script, |_| {}).await;
    let answer = frontend.post(&invoke(), "once").await;
    assert!(answer.ends_with("known now"), "{answer}");
    assert_eq!(node.seen().len(), 4);
}

#[tokio::test]
async fn a_slot_that_stays_unknown_is_given_up_after_the_timeout() {
    let (frontend, _node) = frontend_of_one_slot(
        |_| unknown_container(),
        |config| config.new_slot_timeout = Duration::from_millis(100),
    )
    .await;
    let answer = frontend.get(&invoke()).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_contains(&answer, &["container_not_ready", "retry-after: 1"]);
}

#[tokio::test]
async fn while_every_node_is_down_at_most_a_fifth_of_the_requests_plus_ten_are_retried() {
    let nodes = Nodes::new().await;
    let routed = function(&[(nodes.nobody(), 1), (nodes.nobody(), 2)]);
    let frontend = frontend(&nodes, routed).await;
    // Each on a connection of its own, so that every worker has some.
    for _ in 0..100 {
        let answer = frontend.get(&invoke()).await;
        assert!(answer.contains("node_unreachable"), "{answer}");
    }
    // The first request found the budget full, and earned nothing.
    let metrics = frontend.monitor("/metrics").await;
    assert_contains(&metrics, &["bismuthfe_retries_total 29\n"]);
}

#[tokio::test]
async fn waiting_for_a_new_slot_does_not_use_the_retry_budget() {
    let script = in_turn(|asked| match asked % 4 {
        3 => ok("known now"),
        _ => unknown_container(),
    });
    let (frontend, _node) = frontend_of_one_slot(script, |_| {}).await;
    for _ in 0..20 {
        let answer = frontend.get(&invoke()).await;
        assert!(answer.ends_with("known now"), "{answer}");
    }
}

#[tokio::test]
async fn a_burst_for_new_slots_waits_also_when_no_retry_is_left() {
    let nodes = Nodes::new().await;
    let script = in_turn(|asked| match asked {
        0..60 => unknown_container(),
        _ => ok("known now"),
    });
    let node = nodes.start(script).await;
    let two = function(&[(node.ip, 1), (node.ip, 2)]);
    let frontend = frontend(&nodes, two).await;
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
    let routed = function(&[(one.ip, 1), (two.ip, 2)]);
    let frontend = frontend(&nodes, routed).await;
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
    // Every second request finds its connection closed after the answer before it.
    let script = in_turn(|answered| match answered % 3 {
        2 => None,
        _ => ok("hi"),
    });
    let (frontend, _node) = frontend_of_one_slot(script, |_| {}).await;
    let mut peer = frontend.connect().await;
    for _ in 0..20 {
        peer.get(&invoke()).await;
        let answer = peer.answer().await;
        assert!(answer.ends_with("hi"), "{answer}");
    }
}

#[tokio::test]
async fn a_full_container_sends_the_next_request_to_another() {
    let nodes = Nodes::new().await;
    // Answers that do not end while the test looks.
    let arrived = Arc::new(Semaphore::new(0));
    let node = nodes.start(without_end(&arrived)).await;
    let list = [(node.ip, 1), (node.ip, 2), (node.ip, 3)];
    let frontend = frontend(&nodes, function(&list)).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = frontend.connect().await;
        client.get(&invoke()).await;
        within_timeout(arrived.acquire()).await.unwrap().forget();
        clients.push(client);
    }
    let slots: std::collections::BTreeSet<_> =
        node.seen().iter().map(|r| r[12..48].to_owned()).collect();
    assert_eq!(slots.len(), 3, "one each while others have room");
}
