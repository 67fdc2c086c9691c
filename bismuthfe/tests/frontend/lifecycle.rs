//! Start without ZooKeeper, admin endpoints, drain, connection limit.

use std::sync::Arc;
use std::time::Duration;

use bismuth_registry::RoutingSnapshot;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::{
    Nodes, assert_contains, frontend_of_one_slot, frontend_with, function, invoke, ok, snapshot,
    within_timeout, without_end,
};

#[tokio::test]
async fn a_restart_without_the_registry_serves_by_the_saved_routing() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("still here")).await;
    let directory = tempfile::tempdir().unwrap();
    let mut config = nodes.config();
    config.snapshot = Some(directory.path().join("routing.json"));
    let first = frontend_with(config.clone(), RoutingSnapshot::default()).await;
    assert!(first.monitor("/readyz").await.starts_with("HTTP/1.1 503"));
    let routing = snapshot(function(&[(node.ip, 1)]));
    first.routing.send_replace(routing.into());
    first.eventually(&invoke(), "still here").await;
    first.shutdown.trigger();
    within_timeout(first.running).await.unwrap().unwrap();

    let second = frontend_with(config, RoutingSnapshot::default()).await;
    assert!(second.get(&invoke()).await.ends_with("still here"));
    assert!(second.monitor("/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_admin_endpoints_answer_on_their_own_address_only() {
    let (frontend, _node) = frontend_of_one_slot(|_| ok("function's own"), |_| {}).await;
    let health = frontend.monitor("/healthz").await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let request = "GET /healthz HTTP/1.1\r\nHost: fn.example\r\n\r\n";
    assert!(frontend.ask(request).await.ends_with("function's own"));
    assert_contains(
        &frontend.monitor("/metrics").await,
        &[
            "bismuthfe_responses_total{class=\"2xx\"} 1",
            "bismuthfe_functions 1",
            "bismuthfe_requests_in_flight 0",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_what_is_in_flight_and_refuses_what_is_new() {
    let (arrived, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (tell, wait) = (arrived.clone(), told.clone());
    let script = move |_: &str| {
        tell.add_permits(1);
        // The script is not async; its thread is not the one that the test needs.
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(async { wait.acquire().await.unwrap().forget() });
        });
        ok("finished")
    };
    let (frontend, _node) = frontend_of_one_slot(script, |_| {}).await;
    let mut client = frontend.connect().await;
    client.get(&invoke()).await;
    within_timeout(arrived.acquire()).await.unwrap().forget();
    frontend.shutdown.trigger();
    within_timeout(async { while TcpStream::connect(frontend.addr).await.is_ok() {} }).await;
    let ready = frontend.monitor("/readyz").await;
    assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
    told.add_permits(1);
    let answer = client.answer().await;
    assert!(answer.ends_with("finished"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    within_timeout(frontend.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let arrived = Arc::new(Semaphore::new(0));
    let (frontend, _node) = frontend_of_one_slot(without_end(&arrived), |config| {
        config.drain = Duration::from_millis(50);
    })
    .await;
    let mut client = frontend.connect().await;
    client.get(&invoke()).await;
    within_timeout(arrived.acquire()).await.unwrap().forget();
    frontend.shutdown.trigger();
    let error = within_timeout(frontend.running).await.unwrap().unwrap_err();
    assert_contains(&format!("{error:#}"), &["1 connections were cut off"]);
}

#[tokio::test]
async fn idle_client_connections_beyond_the_limit_are_closed_for_a_new_request() {
    let (frontend, _node) = frontend_of_one_slot(
        |_| ok("room for you"),
        |config| config.max_connections_per_worker = 4,
    )
    .await;
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut client = frontend.connect().await;
        if n % 2 == 0 {
            // Half of them have asked once and stay.
            client.get("/nowhere").await;
            client.answer().await;
        }
        silent.push(client);
    }
    for _ in 0..10 {
        assert!(frontend.get(&invoke()).await.ends_with("room for you"));
    }
    drop(silent);
}
