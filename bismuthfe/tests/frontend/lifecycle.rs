//! Start without ZooKeeper, admin endpoints, drain, connection limit.

use std::sync::Arc;
use std::time::Duration;

use bismuth_registry::RoutingSnapshot;
use bismuthfe::config::Config;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::harness::{
    Nodes, frontend, frontend_with, function, invoke, ok, snapshot, within_timeout,
};

#[tokio::test]
async fn a_restart_without_the_registry_serves_by_the_saved_routing() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("still here")).await;
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        node_port: nodes.port,
        snapshot: Some(directory.path().join("routing.json")),
        ..Config::default()
    };
    let first = frontend_with(config.clone(), RoutingSnapshot::default()).await;
    assert!(first.monitor("/readyz").await.starts_with("HTTP/1.1 503"));
    first
        .routing
        .send_replace(snapshot(function(&[(node.ip, 1)])).into());
    first.eventually(&invoke(), "still here").await;
    first.shutdown.trigger();
    within_timeout(first.running).await.unwrap().unwrap();

    let second = frontend_with(config, RoutingSnapshot::default()).await;
    assert!(second.get(&invoke()).await.ends_with("still here"));
    assert!(second.monitor("/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn the_admin_endpoints_answer_on_their_own_address_only() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("function's own")).await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
    assert!(
        frontend
            .monitor("/healthz")
            .await
            .starts_with("HTTP/1.1 200")
    );
    let request = "GET /healthz HTTP/1.1\r\nHost: fn.example\r\n\r\n";
    assert!(frontend.ask(request).await.ends_with("function's own"));
    let metrics = frontend.monitor("/metrics").await;
    for line in [
        "bismuthfe_responses_total{class=\"2xx\"} 1",
        "bismuthfe_functions 1",
        "bismuthfe_requests_in_flight 0",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_what_is_in_flight_and_refuses_what_is_new() {
    let nodes = Nodes::new().await;
    let (arrived, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (tell, wait) = (arrived.clone(), told.clone());
    let node = nodes
        .start(move |_| {
            tell.add_permits(1);
            // The script is not async; its thread is not the one that the test needs.
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current()
                    .block_on(async { wait.acquire().await.unwrap().forget() });
            });
            ok("finished")
        })
        .await;
    let frontend = frontend(nodes.port, snapshot(function(&[(node.ip, 1)]))).await;
    let mut client = frontend.connect().await;
    client
        .send(&format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", invoke()))
        .await;
    within_timeout(arrived.acquire()).await.unwrap().forget();
    frontend.shutdown.trigger();
    within_timeout(async { while TcpStream::connect(frontend.addr).await.is_ok() {} }).await;
    assert!(
        frontend
            .monitor("/readyz")
            .await
            .starts_with("HTTP/1.1 503")
    );
    told.add_permits(1);
    let answer = within_timeout(client.message()).await.expect("an answer");
    assert!(answer.ends_with("finished"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    within_timeout(frontend.running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_is_bounded() {
    let nodes = Nodes::new().await;
    let arrived = Arc::new(Semaphore::new(0));
    let tell = arrived.clone();
    let node = nodes
        .start(move |_| {
            tell.add_permits(1);
            Some("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnever ends".into())
        })
        .await;
    let config = Config {
        node_port: nodes.port,
        drain: Duration::from_millis(50),
        ..Config::default()
    };
    let frontend = frontend_with(config, snapshot(function(&[(node.ip, 1)]))).await;
    let mut client = frontend.connect().await;
    client
        .send(&format!("GET {} HTTP/1.1\r\nHost: test\r\n\r\n", invoke()))
        .await;
    within_timeout(arrived.acquire()).await.unwrap().forget();
    frontend.shutdown.trigger();
    let error = within_timeout(frontend.running).await.unwrap().unwrap_err();
    assert!(
        format!("{error:#}").contains("1 connections were cut off"),
        "{error:#}"
    );
}

#[tokio::test]
async fn idle_client_connections_beyond_the_limit_are_closed_for_a_new_request() {
    let nodes = Nodes::new().await;
    let node = nodes.start(|_| ok("room for you")).await;
    let config = Config {
        node_port: nodes.port,
        max_connections_per_worker: 4,
        ..Config::default()
    };
    let frontend = frontend_with(config, snapshot(function(&[(node.ip, 1)]))).await;
    let mut silent = Vec::new();
    for n in 0..100 {
        let mut client = frontend.connect().await;
        if n % 2 == 0 {
            // Half of them have asked once and stay.
            client
                .send("GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n")
                .await;
            within_timeout(client.message()).await.expect("an answer");
        }
        silent.push(client);
    }
    for _ in 0..10 {
        assert!(frontend.get(&invoke()).await.ends_with("room for you"));
    }
    drop(silent);
}
