//! Readiness, metrics, request ids, and calls without ZooKeeper.

use std::time::{Duration, Instant};

use bismuth_testkit::eventually;
use http::Method;
use serde_json::json;

use crate::harness::{Harness, NODE, RunningApi, SOON, definition, send};
use bismuth_coord::{CreateMode, MemoryTree, Tree as _};

async fn ready(api: &RunningApi) -> Result<(), String> {
    let answer = api.get("/readyz").await;
    let ready = answer.0.status() == 200;
    ready.then_some(()).ok_or(answer.text())
}

async fn not_ready(api: &RunningApi, reason: &str) -> Result<(), String> {
    match ready(api).await {
        Err(text) if text.contains(reason) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn it_is_ready_when_the_environment_is_there() {
    let tree = MemoryTree::new();
    let api = RunningApi::start(&tree, &[]);
    eventually("it says what is missing", SOON, || {
        not_ready(&api, "bismuthctl bootstrap")
    })
    .await;
    api.get("/function").await.problem(503, "not_bootstrapped");
    crate::harness::registry_on(tree).bootstrap().await.unwrap();
    eventually("it is ready", SOON, || ready(&api)).await;
    assert_eq!(api.get("/healthz").await.text(), "ok\n");
    api.stop().await;
}

#[tokio::test]
async fn without_zookeeper_every_call_is_503_within_a_second() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let id = harness.create(&definition()).await;
    harness.api.stop().await;
    let tree = harness.tree.another_session();
    tree.disconnect();
    let api = RunningApi::start_on(tree.clone(), &[]);
    eventually("it says so", SOON, || {
        not_ready(&api, "ZooKeeper does not answer")
    })
    .await;
    let one = format!("/function/{id}");
    for (method, path) in [
        (Method::GET, "/function"),
        (Method::POST, "/function"),
        (Method::GET, &one),
        (Method::PUT, &one),
        (Method::DELETE, &one),
        (Method::GET, &format!("{one}/logs")),
        (Method::GET, "/node"),
        (Method::GET, "/node/127.0.0.1"),
    ] {
        let begun = Instant::now();
        let answer = api
            .call(method.clone(), path, definition().to_string())
            .await;
        let problem = answer.problem(503, "zookeeper_unavailable");
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "{method} {path}: {:?}",
            begun.elapsed()
        );
        assert_eq!(problem["retryable"], json!(true));
        assert_eq!(answer.0.headers()["retry-after"], "2");
    }
    assert_eq!(api.get("/healthz").await.0.status(), 200);
    tree.reconnect();
    eventually("it is ready again", SOON, || ready(&api)).await;
    api.get(&one).await.ok();
    api.stop().await;
}

#[tokio::test]
async fn an_election_blocked_by_a_znode_that_no_api_wrote_is_said_until_it_is_gone() {
    let tree = MemoryTree::new();
    let registry = crate::harness::registry_on(tree.clone());
    registry.bootstrap().await.unwrap();
    let path = registry.layout().leader();
    tree.create(&path, b"", CreateMode::Persistent)
        .await
        .unwrap();
    let api = RunningApi::start(&tree, &[]);
    eventually("it says so", SOON, async || {
        match api.gauge("bismuth_api_election_blocked").await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(api.gauge("bismuth_api_leader").await, 0);
    ready(&api).await.expect("it answers calls all the same");
    tree.delete(&path, None).await.unwrap();
    eventually("it leads", SOON, async || {
        match api.gauge("bismuth_api_leader").await {
            1 => Ok(()),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(api.gauge("bismuth_api_election_blocked").await, 0);
    api.stop().await;
}

#[tokio::test]
async fn calls_are_counted_by_route_pattern() {
    let harness = Harness::with_nodes(&[NODE]).await;
    harness.create(&definition()).await;
    harness
        .api
        .get("/function/17")
        .await
        .problem(404, "malformed_id");
    let metrics = harness.api.get("/metrics").await.text();
    for line in [
        r#"bismuth_api_calls_total{method="POST",route="/function",status="200"} 1"#,
        r#"bismuth_api_calls_total{method="GET",route="/function/{id}",status="404"} 1"#,
        "bismuth_api_call_seconds_count 2",
        "process_open_fds",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn the_id_of_a_request_is_kept() {
    let harness = Harness::with_nodes(&[NODE]).await;
    let request = harness.api.request(Method::GET, "/function/17");
    let answer = send(request.header("x-request-id", "mine-17"), "").await;
    assert_eq!(answer.0.headers()["x-request-id"], "mine-17");
    // The body says the same, which is looked at here.
    answer.problem(404, "malformed_id");
}
