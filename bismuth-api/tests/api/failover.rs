//! Two bismuth-api processes on a real ZooKeeper: when the leader dies, ends or is paused, the other leads and goes on with its rollouts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_coord::{ConnectOptions, ZkTree};
use bismuth_model::{Backend, ContainerState, ContainerStatus, FunctionId};
use bismuth_registry::{NodeRegistration, Registry};
use bismuth_testkit::http::{full, get, send_whole};
use bismuth_testkit::{Daemon, ZooKeeper, eventually, ports};
use http::{Method, Request};
use serde_json::Value;

use crate::harness::{NODE, SOON, definition, facts, gauge};

/// ZooKeeper ends sessions at its ticks: a smaller one than usual, so that a session ends close to its timeout.
const TICK: Duration = Duration::from_secs(1);
/// From a leader's death until another leads: its session, and this.
const TAKEOVER: Duration = Duration::from_secs(2);
/// From the signal to a leader until another leads.
const HANDED_OVER: Duration = Duration::from_secs(1);

/// One bismuth-api.
struct Replica {
    daemon: Daemon,
    url: String,
}

impl Replica {
    fn start(zookeeper: &ZooKeeper, settle: &str) -> Self {
        let listen = format!("127.0.0.1:{}", ports::reserve().unwrap());
        let servers = zookeeper.connect_string();
        let args = [
            "--listen",
            &listen,
            "--zookeeper",
            &servers,
            "--zookeeper-env",
            "test",
            "--settle",
            settle,
            "--log-format",
            "text",
        ];
        Self {
            daemon: Daemon::spawn("bismuth-api", args).unwrap(),
            url: format!("http://{listen}"),
        }
    }

    async fn gauge(&self, name: &str) -> Result<i64, String> {
        let page = get(&format!("{}/metrics", self.url))
            .await
            .map_err(|error| format!("{error:#}"))?;
        gauge(&String::from_utf8_lossy(page.body()), name)
    }

    /// Waits until it leads, or does not, in this term.
    async fn stands(&self, leader: i64, term: i64) {
        eventually("it leads or follows in this term", SOON, async || {
            let stands = (
                self.gauge("bismuth_api_leader").await?,
                self.gauge("bismuth_api_term").await?,
            );
            if stands == (leader, term) {
                Ok(())
            } else {
                Err(format!("{stands:?} and not {:?}", (leader, term)))
            }
        })
        .await;
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Value {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .body(full(body.to_owned()));
        let answer = send_whole(request.unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        assert_eq!(answer.status(), 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }
}

/// Two replicas, of which the first leads in term 1, and one node.
struct Replicas {
    leader: Replica,
    other: Replica,
    registry: Registry,
    _node: NodeRegistration,
    _zookeeper: ZooKeeper,
}

impl Replicas {
    async fn start(settle: &str) -> Self {
        let zookeeper = ZooKeeper::builder().tick_time(TICK).start().await.unwrap();
        let servers = zookeeper.connect_string();
        let tree = ZkTree::connect(&servers, ConnectOptions::default())
            .await
            .unwrap();
        let registry = Registry::new(Arc::new(tree), "test".parse().unwrap());
        registry.bootstrap().await.unwrap();
        registry.provision_node(NODE).await.unwrap();
        let node = registry.register_node(NODE, &facts()).await.unwrap();
        let leader = Replica::start(&zookeeper, settle);
        leader.stands(1, 1).await;
        let other = Replica::start(&zookeeper, settle);
        other.stands(0, 1).await;
        let ready = format!("{}/readyz", other.url);
        other.daemon.ready(&ready, SOON).await.unwrap();
        Self {
            leader,
            other,
            registry,
            _node: node,
            _zookeeper: zookeeper,
        }
    }

    /// A function with one slot, which runs.
    async fn deployed(&self) -> (FunctionId, Backend) {
        let definition = definition().to_string();
        let made = self
            .other
            .call(Method::POST, "/function", &definition)
            .await;
        let id: FunctionId = made["id"].as_str().unwrap().parse().unwrap();
        let slot = self.slots(id).await[0];
        self.runs(slot).await;
        (id, slot)
    }

    /// Writes its next revision, whose slot does not run yet.
    async fn redeploy(&self, id: FunctionId, by: &Replica) -> Backend {
        let before = self.slots(id).await;
        by.call(Method::PUT, &format!("/function/{id}"), "").await;
        let mut after = self.slots(id).await.into_iter();
        after
            .find(|slot| !before.contains(slot))
            .expect("a slot of the new revision")
    }

    /// Writes that a slot runs, as its node does.
    async fn runs(&self, slot: Backend) {
        let status = ContainerStatus {
            state: ContainerState::Running,
            ..ContainerStatus::assigned(0)
        };
        self.registry
            .update_container_status(slot.ip, slot.container_id, &status)
            .await
            .unwrap();
    }

    /// All slots, those of the newest revision first.
    async fn slots(&self, id: FunctionId) -> Vec<Backend> {
        let slots = self.registry.function_containers(id).await.unwrap();
        slots.into_iter().map(|(slot, _)| slot).collect()
    }

    async fn routed(&self, id: FunctionId) -> Vec<Backend> {
        self.registry.function(id).await.unwrap().unwrap().backends
    }

    async fn routed_to(&self, id: FunctionId, slot: Backend) {
        eventually("requests go there", SOON, async || {
            let routed = self.routed(id).await;
            if routed == [slot] {
                Ok(())
            } else {
                Err(format!("{routed:?}"))
            }
        })
        .await;
    }

    /// Waits until requests go to this slot, and no other is left.
    async fn rolled_out(&self, id: FunctionId, slot: Backend) {
        self.routed_to(id, slot).await;
        eventually("the old slot is gone", SOON, async || {
            let slots = self.slots(id).await;
            if slots == [slot] {
                Ok(())
            } else {
                Err(format!("{slots:?}"))
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_leader_is_replaced_when_its_session_ends_and_its_rollout_is_finished() {
    let mut replicas = Replicas::start("100ms").await;
    let (id, _) = replicas.deployed().await;
    let new = replicas.redeploy(id, &replicas.other).await;
    let killed = Instant::now();
    replicas.leader.daemon.kill().await.unwrap();
    replicas.runs(new).await;
    replicas.other.stands(1, 2).await;
    let leads = killed.elapsed();
    replicas.rolled_out(id, new).await;
    let finished = killed.elapsed();
    println!(
        "killed: the other leads after {leads:?}, and finished its rollout after {finished:?}"
    );
    let bound = ConnectOptions::default().session_timeout + TAKEOVER;
    assert!(leads < bound, "only after {leads:?}");

    // It comes back, and follows.
    replicas.leader.daemon.start().unwrap();
    replicas.leader.stands(0, 2).await;
}

#[tokio::test]
async fn a_leader_that_is_stopped_is_replaced_within_a_second_and_its_rollout_is_finished() {
    let mut replicas = Replicas::start("100ms").await;
    let (id, _) = replicas.deployed().await;
    let new = replicas.redeploy(id, &replicas.other).await;
    let signalled = Instant::now();
    let (status, leads) = tokio::join!(replicas.leader.daemon.terminate(), async {
        replicas.other.stands(1, 2).await;
        signalled.elapsed()
    });
    assert!(status.unwrap().success());
    println!("stopped: the other leads after {leads:?}");
    assert!(leads < HANDED_OVER, "only after {leads:?}");
    replicas.runs(new).await;
    replicas.rolled_out(id, new).await;
}

#[tokio::test]
async fn a_leader_that_was_paused_beyond_its_session_writes_nothing_and_follows() {
    // Long enough for the paused one to come back while the slot that it would release is still there.
    let replicas = Replicas::start("8s").await;
    let (leader, other) = (&replicas.leader, &replicas.other);
    let (id, old) = replicas.deployed().await;
    let new = replicas.redeploy(id, other).await;
    replicas.runs(new).await;
    replicas.routed_to(id, new).await;

    // It has the old slot left to release: it is late with that when it goes on.
    let process = leader.daemon.process().unwrap();
    let paused = Instant::now();
    process.pause().unwrap();
    other.stands(1, 2).await;
    let leads = paused.elapsed();
    process.resume().unwrap();
    leader.stands(0, 2).await;
    let follows = paused.elapsed() - leads;
    assert_eq!(
        replicas.slots(id).await,
        [new, old],
        "released by the paused one"
    );
    println!(
        "paused: the other leads after {leads:?}; resumed, the paused one follows after {follows:?}"
    );
    println!("{}", process.log_tail());
    let bound = ConnectOptions::default().session_timeout + TAKEOVER;
    assert!(leads < bound, "only after {leads:?}");

    // What the former leader is given now, the new one rolls out.
    replicas.rolled_out(id, new).await;
    let third = replicas.redeploy(id, leader).await;
    replicas.runs(third).await;
    replicas.routed_to(id, third).await;
    leader.stands(0, 2).await;
}
