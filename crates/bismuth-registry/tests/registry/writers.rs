//! Concurrent writers over connections that lose answers leave no inconsistencies.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bismuth_coord::memory::LostAnswer;
use bismuth_coord::{
    CreateMode, MemoryTree, Op, Result as TreeResult, SessionState, Tree, Version, Versioned, Watch,
};
use bismuth_model::{
    ContainerState, ContainerStatus, Environment, FunctionId, Revision, RevisionFate,
};
use bismuth_registry::{Error, Registry};
use proptest::prelude::*;

use crate::fixture::{Fixture, NODES, definition, slot};

/// A connection on which others get in between at every step, and which sometimes loses an answer.
struct FaultyTree {
    tree: MemoryTree,
    /// State of a small random generator (xorshift), so that a failure is found again from its seed.
    random: AtomicU64,
}

impl FaultyTree {
    fn new(tree: MemoryTree, seed: u64) -> Self {
        Self {
            tree,
            random: AtomicU64::new(seed | 1),
        }
    }

    fn random(&self, below: u64) -> u64 {
        let mut x = self.random.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.store(x, Ordering::Relaxed);
        (x >> 33) % below
    }

    async fn let_others_run(&self) {
        for _ in 0..self.random(4) {
            tokio::task::yield_now().await;
        }
    }
}

#[async_trait]
impl Tree for FaultyTree {
    async fn get(&self, path: &str) -> TreeResult<Versioned> {
        self.let_others_run().await;
        self.tree.get(path).await
    }
    async fn exists(&self, path: &str) -> TreeResult<Option<Version>> {
        self.let_others_run().await;
        self.tree.exists(path).await
    }
    async fn children(&self, path: &str) -> TreeResult<Vec<String>> {
        self.let_others_run().await;
        self.tree.children(path).await
    }
    async fn get_many(&self, paths: &[String]) -> Vec<TreeResult<Versioned>> {
        let mut found = Vec::new();
        for path in paths {
            found.push(self.get(path).await);
        }
        found
    }
    async fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> TreeResult<Version> {
        self.let_others_run().await;
        self.tree.create(path, data, mode).await
    }
    async fn set(&self, path: &str, data: &[u8], expected: Option<Version>) -> TreeResult<Version> {
        self.let_others_run().await;
        self.tree.set(path, data, expected).await
    }
    async fn delete(&self, path: &str, expected: Option<Version>) -> TreeResult<()> {
        self.let_others_run().await;
        self.tree.delete(path, expected).await
    }
    async fn commit(&self, ops: Vec<Op>) -> TreeResult<()> {
        self.let_others_run().await;
        match self.random(8) {
            0 => self.tree.lose_next_answer(LostAnswer::BeforeChange),
            1 => self.tree.lose_next_answer(LostAnswer::AfterChange),
            _ => {}
        }
        self.tree.commit(ops).await
    }
    async fn watch(&self, path: &str) -> TreeResult<Watch> {
        self.tree.watch(path).await
    }
    fn session(&self) -> tokio::sync::watch::Receiver<SessionState> {
        self.tree.session()
    }
}

fn faulty_registry(f: &Fixture, seed: u64) -> Registry {
    Registry::new(
        Arc::new(FaultyTree::new(f.tree.another_session(), seed)),
        Environment::default(),
    )
}

/// What a writer does next. Functions and nodes are named by number, modulo how many there are.
#[derive(Clone, Debug)]
enum Action {
    Create {
        route: u8,
        node: u8,
    },
    Delete {
        function: u8,
    },
    Replace {
        function: u8,
        route: u8,
        node: u8,
    },
    SwitchToNewest {
        function: u8,
    },
    ReleaseUnlisted {
        function: u8,
    },
    Add {
        function: u8,
        node: u8,
    },
    RemoveFirst {
        function: u8,
    },
    Status {
        function: u8,
    },
    Provision {
        node: u8,
    },
    Deprovision {
        node: u8,
    },
    /// By what was assigned a while ago.
    Migrate {
        function: u8,
    },
    Record {
        function: u8,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let (function, route, node) = (0..3_u8, 0..3_u8, 0..3_u8);
    prop_oneof![
        3 => (route.clone(), node.clone()).prop_map(|(route, node)| Action::Create { route, node }),
        1 => function.clone().prop_map(|function| Action::Delete { function }),
        2 => (function.clone(), route, node.clone())
            .prop_map(|(function, route, node)| Action::Replace { function, route, node }),
        2 => function.clone().prop_map(|function| Action::SwitchToNewest { function }),
        2 => function.clone().prop_map(|function| Action::ReleaseUnlisted { function }),
        2 => (function.clone(), node.clone()).prop_map(|(function, node)| Action::Add { function, node }),
        1 => function.clone().prop_map(|function| Action::RemoveFirst { function }),
        1 => function.clone().prop_map(|function| Action::Status { function }),
        1 => function.clone().prop_map(|function| Action::Migrate { function }),
        1 => function.prop_map(|function| Action::Record { function }),
        1 => node.clone().prop_map(|node| Action::Provision { node }),
        1 => node.prop_map(|node| Action::Deprovision { node }),
    ]
}

struct Writer {
    registry: Registry,
    functions: Arc<Mutex<Vec<FunctionId>>>,
}

impl Writer {
    fn pick(&self, function: u8) -> FunctionId {
        let functions = self.functions.lock().unwrap();
        match functions.len() {
            0 => FunctionId::from_bytes([function; 16]),
            count => functions[count - 1 - usize::from(function) % count],
        }
    }

    async fn act(&self, action: &Action) -> Result<(), Error> {
        let r = &self.registry;
        let node = |node: u8| -> Ipv4Addr { NODES[usize::from(node) % NODES.len()] };
        let made = |route: u8| definition(&[&format!("r{route}.example.com")]);
        match *action {
            Action::Create { route, node: n } => {
                let id = FunctionId::new_random();
                self.functions.lock().unwrap().push(id);
                r.create_function(id, &made(route), &[slot(node(n))])
                    .await?;
            }
            Action::Delete { function } => r.delete_function(self.pick(function)).await?,
            Action::Replace {
                function,
                route,
                node: n,
            } => {
                let id = self.pick(function);
                if let Some(current) = r.function(id).await? {
                    r.replace_definition(id, &made(route), current.version, &[slot(node(n))])
                        .await?;
                }
            }
            Action::SwitchToNewest { function } => {
                let id = self.pick(function);
                let slots = r.function_containers(id).await?;
                let newest = slots.first().map(|(_, record)| record.revision);
                let newest = slots
                    .iter()
                    .filter(|(_, record)| Some(record.revision) == newest);
                r.switch_backends(id, &newest.map(|(slot, _)| *slot).collect::<Vec<_>>())
                    .await?;
            }
            Action::ReleaseUnlisted { function } => {
                for (slot, _) in r.function_containers(self.pick(function)).await? {
                    r.release_container(slot.ip, slot.container_id).await?;
                }
            }
            Action::Add { function, node: n } => {
                r.add_backend(self.pick(function), node(n)).await?;
            }
            Action::RemoveFirst { function } => {
                let id = self.pick(function);
                let first = r
                    .function(id)
                    .await?
                    .and_then(|function| function.backends.first().copied());
                if let Some(first) = first {
                    r.remove_backend(id, first.ip, first.container_id).await?;
                }
            }
            Action::Status { function } => {
                for (slot, record) in r.function_containers(self.pick(function)).await? {
                    let status = ContainerStatus {
                        state: ContainerState::Running,
                        ..record.status
                    };
                    r.update_container_status(slot.ip, slot.container_id, &status)
                        .await?;
                }
            }
            Action::Provision { node: n } => {
                r.provision_node(node(n)).await?;
            }
            Action::Deprovision { node: n } => r.deprovision_node(node(n)).await?,
            Action::Migrate { function } => {
                let id = self.pick(function);
                let assigned = r.function_containers(id).await?;
                r.migrate_function(id, &assigned).await?;
            }
            Action::Record { function } => {
                let id = self.pick(function);
                r.record_fate(id, Revision::FIRST, RevisionFate::Proven)
                    .await?;
            }
        }
        Ok(())
    }
}

fn run(scripts: Vec<Vec<Action>>, seed: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let f = Fixture::new().await;
        let functions = Arc::new(Mutex::new(Vec::new()));
        let mut writers = tokio::task::JoinSet::new();
        for (index, script) in scripts.into_iter().enumerate() {
            let registry =
                faulty_registry(&f, seed.wrapping_mul(31).wrapping_add(index as u64 * 7919));
            let writer = Writer {
                registry,
                functions: functions.clone(),
            };
            writers.spawn(async move {
                for action in &script {
                    // Refusals are fine; what they leave behind is what is looked at.
                    if let Err(error) = writer.act(action).await {
                        assert!(
                            !matches!(error, Error::Record { .. }),
                            "{action:?}: {error}"
                        );
                    }
                }
            });
        }
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
        let findings = f
            .registry
            .audit_with(Duration::from_secs(3600))
            .await
            .unwrap();
        assert_eq!(findings, [], "no inconsistency");
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn concurrent_writers_leave_no_inconsistency(
        scripts in prop::collection::vec(prop::collection::vec(action(), 1..10), 2..5),
        seed in any::<u64>(),
    ) {
        run(scripts, seed);
    }
}

#[tokio::test(start_paused = true)]
async fn every_backend_that_was_added_is_there_once() {
    let f = Fixture::new().await;
    let id = f.function(&definition(&[]), &[]).await;
    let mut writers = tokio::task::JoinSet::new();
    for seed in 0..6 {
        let registry = faulty_registry(&f, 1 + seed * 104_729);
        writers.spawn(async move {
            registry
                .add_backend(id, NODES[seed as usize % 3])
                .await
                .unwrap()
        });
    }
    let mut added = Vec::new();
    while let Some(backend) = writers.join_next().await {
        added.push(backend.unwrap());
    }
    let mut listed = f.read(id).await.backends;
    added.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, added);
    assert_eq!(f.registry.function_containers(id).await.unwrap().len(), 6);
}

#[tokio::test(start_paused = true)]
async fn of_two_functions_created_with_one_route_exactly_one_gets_it() {
    for seed in 0..50 {
        let f = Fixture::new().await;
        let (a, b) = (
            faulty_registry(&f, 3 + seed * 7),
            faulty_registry(&f, 5 + seed * 11),
        );
        let (one, two) = (FunctionId::new_random(), FunctionId::new_random());
        let wanted = definition(&["a.b"]);
        let (first, second) = tokio::join!(
            a.create_function(one, &wanted, &[]),
            b.create_function(two, &wanted, &[])
        );
        match (first, second) {
            (Ok(_), Err(Error::RouteTaken { owner, .. })) => assert_eq!(owner, one),
            (Err(Error::RouteTaken { owner, .. }), Ok(_)) => assert_eq!(owner, two),
            other => panic!("{other:?}"),
        }
        assert_eq!(f.registry.audit().await.unwrap(), []);
    }
}
