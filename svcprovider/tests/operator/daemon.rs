//! The program itself: readiness and metrics.

use std::sync::Arc;

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_registry::Registry;
use bismuth_testkit::{Daemon, ZooKeeper, eventually, http, ports};

use crate::harness::SOON;

/// What a path of the admin address answers.
async fn page(url: &str) -> String {
    let answer = http::get(url).await.unwrap();
    String::from_utf8(answer.body().to_vec()).unwrap()
}

#[tokio::test]
async fn an_engine_that_is_away_is_named_and_comes_back() {
    let zookeeper = ZooKeeper::start().await.unwrap();
    let servers = zookeeper.connect_string();
    let tree = ZkTree::connect_lazy(&servers.parse().unwrap(), ConnectOptions::default());
    let registry = Registry::new(Arc::new(tree), "default".parse().unwrap());
    registry.bootstrap().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (admin, operators) = (ports::reserve().unwrap(), ports::reserve().unwrap());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let local = |port| format!("127.0.0.1:{port}");
    let args = [
        format!("--zookeeper={servers}"),
        format!("--data-dir={}", path("data")),
        format!("--socket={}", path("s.sock")),
        format!("--admin-listen={}", local(admin)),
        format!("--operator-listen={}", local(operators)),
        "--create-master-key".to_owned(),
    ];
    let mut daemon = Daemon::spawn_in(dir.path(), "svcprovider", "svcprovider", args).unwrap();
    let url = |path: &str| format!("http://{}{path}", local(admin));
    daemon.ready(&url("/readyz"), SOON).await.unwrap();
    let (there, gone) = (dir.path().join("data/objects"), dir.path().join("gone"));
    std::fs::rename(&there, &gone).unwrap();
    eventually("it names the engine", SOON, async || {
        let page = page(&url("/readyz")).await;
        let named = page.contains("objects: ") && !page.contains("records: ");
        named.then_some(()).ok_or(page)
    })
    .await;
    let metrics = page(&url("/metrics")).await;
    for line in [
        r#"svcprovider_engine_up{engine="records"} 1"#,
        r#"svcprovider_engine_up{engine="objects"} 0"#,
        "svcprovider_containers 0",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    std::fs::rename(&gone, &there).unwrap();
    daemon.ready(&url("/readyz"), SOON).await.unwrap();
    daemon.terminate().await.unwrap();
}
