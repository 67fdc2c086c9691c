//! Runs the suite on a real ZooKeeper, with tests for restarts, timeouts and bulk reads that need one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bismuth_coord::memory::LostAnswer;
use bismuth_coord::{
    ConnectOptions, CreateMode, Error, Event, SessionState, Tree, Version, ZkTree,
};
use bismuth_testkit::ZooKeeper;

use crate::harness::{
    TIMEOUT, TreeHarness, create, created, deleted, ephemeral, next, persistent, refused, session,
    until,
};
use crate::proxy::Proxy;

/// How `get_many` asks, as the constants of `zk/load.rs` have it.
const NODES_PER_REQUEST: usize = 32;
const REQUESTS_IN_FLIGHT: usize = 8;

/// Sessions may live from two to twenty ticks: short enough for the tests that let one expire.
const TICK: Duration = Duration::from_millis(500);

async fn server() -> ZooKeeper {
    ZooKeeper::builder().tick_time(TICK).start().await.unwrap()
}

async fn connect(servers: &str) -> ZkTree {
    // Opening the first session may take its time on a machine that is busy.
    let patient = ConnectOptions {
        timeout: TIMEOUT,
        ..ConnectOptions::default()
    };
    ZkTree::connect(servers, patient).await.unwrap()
}

pub struct InZooKeeper {
    server: Arc<ZooKeeper>,
    proxy: Proxy,
    tree: ZkTree,
    observer: Arc<dyn Tree>,
    base: String,
}

impl InZooKeeper {
    async fn new(server: Arc<ZooKeeper>, observer: Arc<dyn Tree>, case: &str) -> Self {
        let proxy = Proxy::to(server.address()).await;
        let tree = ZkTree::connect_lazy(&proxy.servers(), ConnectOptions::default());
        let base = format!("/conformance/{case}");
        observer.ensure(&base).await.unwrap();
        let harness = Self {
            server,
            proxy,
            tree,
            observer,
            base,
        };
        session(&harness.tree(), SessionState::Connected).await;
        harness
    }
}

#[async_trait]
impl TreeHarness for InZooKeeper {
    fn tree(&self) -> Arc<dyn Tree> {
        Arc::new(self.tree.clone())
    }

    fn observer(&self) -> Arc<dyn Tree> {
        self.observer.clone()
    }

    fn base(&self) -> &str {
        &self.base
    }

    fn cut(&self) {
        self.proxy.cut();
    }

    fn heal(&self) {
        self.proxy.open();
    }

    async fn expire(&self) {
        let session = self.tree.session_id().expect("there is a session");
        // The server ends a session for whoever presents it. Without the cut its owner would take it back.
        self.proxy.cut();
        self.server.expire_session(session).await.unwrap();
        self.proxy.open();
    }

    fn lose_next_answer(&self, how: LostAnswer) {
        self.proxy.lose_next_answer(how);
    }
}

/// Runs every case against one server, all at once, and says which failed. (One test per case would start
/// one Java program per case.)
macro_rules! zookeeper_cases {
    ($($module:ident::$case:ident,)*) => {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn zookeeper_passes_the_suite() {
            let server = Arc::new($crate::zookeeper::server().await);
            let observer: Arc<dyn Tree> = Arc::new($crate::zookeeper::connect(&server.connect_string()).await);
            let mut cases = Vec::new();
            $({
                let (server, observer) = (server.clone(), observer.clone());
                cases.push((stringify!($case), tokio::spawn(async move {
                    let harness = $crate::zookeeper::InZooKeeper::new(server, observer, stringify!($case)).await;
                    $crate::$module::$case(&harness).await;
                })));
            })*
            let mut failed = Vec::new();
            for (name, case) in cases {
                if case.await.is_err() {
                    failed.push(name);
                }
            }
            assert!(failed.is_empty(), "failed: {failed:?} (why is said above)");
        }
    };
}
crate::for_every_case!(zookeeper_cases);

#[tokio::test]
async fn a_watch_continues_after_its_server_was_killed_and_restarted() {
    let mut server = server().await;
    let zk = connect(&server.connect_string()).await;
    let tree: Arc<dyn Tree> = Arc::new(zk.clone());
    tree.create("/kept", b"1", CreateMode::Persistent)
        .await
        .unwrap();
    let mut watch = tree.watch("/").await.unwrap();
    let id = zk.session_id();

    server.kill().await.unwrap();
    session(&tree, SessionState::Disconnected).await;
    let started = Instant::now();
    let error = tree.get("/kept").await.unwrap_err();
    assert!(
        error.is_unavailable() && started.elapsed() < Duration::from_secs(1),
        "{error}"
    );

    server.restart().await.unwrap();
    until(&mut watch, &Event::Lost).await;
    assert_eq!(&tree.get("/kept").await.unwrap().data[..], b"1");
    let other = connect(&server.connect_string()).await;
    persistent(&other, "/later").await;
    assert_eq!(next(&mut watch).await, created("/later"));
    // A short outage does not end the session, unless this machine took longer than it lives.
    println!("session before {id:?}, after {:?}", zk.session_id());
}

#[tokio::test]
async fn a_watch_continues_in_a_new_session_after_its_session_timed_out() {
    let server = server().await;
    let proxy = Proxy::to(server.address()).await;
    let other = connect(&server.connect_string()).await;
    let short = ConnectOptions {
        session_timeout: Duration::from_secs(2),
        ..ConnectOptions::default()
    };
    let zk = ZkTree::connect_lazy(&proxy.servers(), short);
    let tree: Arc<dyn Tree> = Arc::new(zk.clone());
    session(&tree, SessionState::Connected).await;
    let first = zk.session_id().unwrap();
    let mut watch = tree.watch("/").await.unwrap();
    let mut seen = other.watch("/mine").await.unwrap();
    ephemeral(&*tree, "/mine").await;

    proxy.freeze();
    until(&mut seen, &deleted("/mine")).await;
    proxy.open();
    until(&mut watch, &Event::Lost).await;
    session(&tree, SessionState::Connected).await;
    persistent(&other, "/later").await;
    until(&mut watch, &created("/later")).await;
    assert_ne!(zk.session_id(), Some(first));
}

#[tokio::test]
async fn a_server_that_does_not_answer_costs_the_timeout_and_no_more() {
    let server = server().await;
    let timeout = Duration::from_millis(500);
    let zk = ZkTree::connect_lazy(
        &server.connect_string().parse().unwrap(),
        ConnectOptions {
            timeout,
            ..ConnectOptions::default()
        },
    );
    let tree: Arc<dyn Tree> = Arc::new(zk);
    session(&tree, SessionState::Connected).await;
    server.pause().unwrap();
    let started = Instant::now();
    let paths = ["/".to_owned()];
    let (read, many, change) = tokio::join!(
        tree.get("/"),
        tree.get_many(&paths),
        tree.create("/a", b"", CreateMode::Persistent)
    );
    let took = started.elapsed();
    server.resume().unwrap();
    assert!(read.as_ref().is_err_and(Error::is_unavailable), "{read:?}");
    assert!(
        many[0].as_ref().is_err_and(Error::is_unavailable),
        "{many:?}"
    );
    assert!(
        change.as_ref().is_err_and(Error::is_unknown_outcome),
        "{change:?}"
    );
    assert!(took >= timeout && took < timeout * 4, "it took {took:?}");
    // The change was on its way: a read on the same connection comes after it.
    let exists = async {
        loop {
            if let Ok(exists) = tree.exists("/a").await {
                return exists;
            }
        }
    };
    assert_eq!(
        tokio::time::timeout(TIMEOUT, exists).await.unwrap(),
        Some(Version(0))
    );
}

#[tokio::test]
async fn a_tree_started_without_a_server_is_unavailable_until_the_server_starts() {
    let mut server = server().await;
    server.kill().await.unwrap();
    let begun = Instant::now();
    let tree: Arc<dyn Tree> = Arc::new(ZkTree::connect_lazy(
        &server.connect_string().parse().unwrap(),
        ConnectOptions::default(),
    ));
    let error = tree.get("/").await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    let chain = format!("{:#}", anyhow::Error::from(error));
    assert!(chain.contains(&server.connect_string()), "{chain}");
    // Having waited once, nobody waits again.
    let again = Instant::now();
    assert!(tree.get("/").await.unwrap_err().is_unavailable());
    assert!(
        again.elapsed() < Duration::from_millis(200),
        "{:?}",
        again.elapsed()
    );

    server.restart().await.unwrap();
    session(&tree, SessionState::Connected).await;
    tree.get("/").await.unwrap();
}

#[tokio::test]
async fn an_unreachable_server_is_named_in_one_line() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let options = ConnectOptions {
        timeout: Duration::from_millis(300),
        ..ConnectOptions::default()
    };
    let error = anyhow::Error::from(ZkTree::connect(&nobody, options).await.unwrap_err());
    let line = format!("{error:#}");
    assert!(
        line.starts_with(&format!("connect to {nobody}: ")) && !line.contains('\n'),
        "{line}"
    );
    refused!(
        ZkTree::connect("http://zk:2181", options),
        Error::InvalidServers { .. }
    );
}

#[tokio::test]
async fn closing_a_tree_takes_its_ephemeral_nodes_with_it_at_once() {
    let server = server().await;
    let other = connect(&server.connect_string()).await;
    let mut watch = other.watch("/").await.unwrap();
    let tree = connect(&server.connect_string()).await;
    let kept_open = tree.watch("/").await.unwrap();
    ephemeral(&tree, "/closed").await;
    tree.close().await;
    until(&mut watch, &deleted("/closed")).await;
    assert!(tree.get("/").await.unwrap_err().is_unavailable());
    tree.close().await;
    drop(kept_open);

    let tree = connect(&server.connect_string()).await;
    ephemeral(&tree, "/dropped").await;
    drop(tree);
    until(&mut watch, &deleted("/dropped")).await;
}

async fn fill(tree: &ZkTree, top: &str, count: usize) -> Vec<String> {
    tree.ensure(top).await.unwrap();
    let paths: Vec<String> = (0..count)
        .map(|n| format!("{top}/3f2504e0-4f89-11d3-9a0c-{n:012}"))
        .collect();
    for paths in paths.chunks(1000) {
        let ops = paths.iter().map(|path| create(path, path)).collect();
        tree.commit(ops).await.unwrap();
    }
    paths
}

#[tokio::test]
async fn five_thousand_nodes_are_loaded_in_one_pipelined_pass() {
    let server = server().await;
    let proxy = Proxy::to(server.address()).await;
    let tree = connect(proxy.servers().as_str()).await;
    let paths = fill(&tree, "/loaded", 5000).await;

    // With no answer coming, as many requests go out as the window holds, and no more.
    let mut traffic = proxy.traffic();
    let before = traffic.borrow_and_update().requests;
    proxy.hold_answers();
    let load = async { tree.get_many(&paths).await };
    let release = async {
        let full = traffic.wait_for(|traffic| traffic.requests == before + REQUESTS_IN_FLIGHT);
        tokio::time::timeout(TIMEOUT, full)
            .await
            .expect("the window fills")
            .unwrap();
        proxy.open();
    };
    let (loaded, ()) = tokio::join!(load, release);
    for (path, node) in paths.iter().zip(&loaded) {
        assert_eq!(&node.as_ref().unwrap().data[..], path.as_bytes());
    }
    let traffic = *proxy.traffic().borrow();
    assert_eq!(
        traffic.requests - before,
        paths.len().div_ceil(NODES_PER_REQUEST)
    );
    assert_eq!(traffic.most_under_way, REQUESTS_IN_FLIGHT);
    report_pipelining(&tree, &paths).await;
}

/// What the window is worth on this machine, for the log: it depends on what else runs.
async fn report_pipelining(tree: &ZkTree, paths: &[String]) {
    let started = Instant::now();
    for path in &paths[..500] {
        tree.get(path).await.unwrap();
    }
    let one_by_one = started.elapsed() * 10;
    let started = Instant::now();
    tree.get_many(paths).await;
    let pipelined = started.elapsed();
    let ratio = one_by_one.as_secs_f64() / pipelined.as_secs_f64();
    println!("5000 nodes: one by one {one_by_one:?}, pipelined {pipelined:?}, ratio {ratio:.1}");
}

#[tokio::test]
async fn a_bulk_read_continues_after_a_lost_connection() {
    let server = server().await;
    let proxy = Proxy::to(server.address()).await;
    let tree = connect(proxy.servers().as_str()).await;
    let paths = fill(&tree, "/loaded", 2000).await;
    let mut traffic = proxy.traffic();
    let before = traffic.borrow_and_update().answers;
    let load = async { tree.get_many(&paths).await };
    let disturb = async {
        let under_way = traffic.wait_for(|traffic| traffic.answers > before + 5);
        tokio::time::timeout(TIMEOUT, under_way)
            .await
            .expect("the load begins")
            .unwrap();
        proxy.cut();
        session(
            &(Arc::new(tree.clone()) as Arc<dyn Tree>),
            SessionState::Disconnected,
        )
        .await;
        proxy.open();
    };
    let (loaded, ()) = tokio::join!(load, disturb);
    assert!(
        loaded.iter().all(Result::is_ok),
        "{:?}",
        loaded.iter().find(|node| node.is_err())
    );
}

#[tokio::test]
async fn a_listing_above_one_mebibyte_is_complete() {
    let server = server().await;
    let tree = connect(&server.connect_string()).await;
    tree.ensure("/listed").await.unwrap();
    // With long names it takes fewer nodes.
    let names: Vec<String> = (0..6000).map(|n| format!("{n:0200}")).collect();
    for names in names.chunks(2000) {
        let paths = names.iter().map(|name| format!("/listed/{name}"));
        let ops = paths.map(|path| create(&path, "")).collect();
        tree.commit(ops).await.unwrap();
    }
    assert!(names.iter().map(String::len).sum::<usize>() > 1024 * 1024);
    assert_eq!(tree.children("/listed").await.unwrap(), names);
}
