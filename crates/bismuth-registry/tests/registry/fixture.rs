//! Shared fixture: a bootstrapped environment with nodes on an in-memory tree, and helpers.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bismuth_coord::{CreateMode, MemoryTree, Tree, Version};
use bismuth_model::{
    Backend, ContainerId, ContainerRecord, Environment, FunctionDefinition, FunctionId,
    FunctionRecord, Hostname, InvokeMode, NodeFacts, Route,
};
use bismuth_registry::{Function, Node, NodeRegistration, Registry};
use tokio::sync::watch;

/// How long anything may take that takes no time: long enough for a machine that builds beside the test.
pub const BOUND: Duration = Duration::from_secs(30);

/// The call is refused with this error.
macro_rules! refused {
    ($call:expr, $error:pat $(if $is_meant:expr)?) => {
        match $call.await {
            Err($error) $(if $is_meant)? => {}
            other => panic!("{other:?}"),
        }
    };
}
pub(crate) use refused;

pub struct Fixture {
    /// The session of the registry.
    pub tree: MemoryTree,
    pub registry: Registry,
}

pub const NODES: [Ipv4Addr; 3] = [
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(127, 0, 0, 2),
    Ipv4Addr::new(127, 0, 0, 3),
];

impl Fixture {
    /// An environment without nodes.
    pub async fn bare() -> Self {
        let tree = MemoryTree::new();
        let registry = on(&tree);
        registry.bootstrap().await.unwrap();
        Self { tree, registry }
    }

    /// An environment with the nodes of [`NODES`].
    pub async fn new() -> Self {
        let fixture = Self::bare().await;
        for ip in NODES {
            assert!(fixture.registry.provision_node(ip).await.unwrap());
        }
        fixture
    }

    /// The registry as another process has it.
    pub fn other(&self) -> Self {
        let tree = self.tree.another_session();
        let registry = on(&tree);
        Self { tree, registry }
    }

    /// The first node says that it is alive.
    pub async fn register(&self, epoch: &str) -> NodeRegistration {
        let registered = self.registry.register_node(NODES[0], &facts(epoch)).await;
        registered.unwrap()
    }

    /// The first node.
    pub async fn node(&self) -> Node {
        self.registry.node(NODES[0]).await.unwrap().unwrap()
    }

    pub async fn function(&self, definition: &FunctionDefinition, slots: &[Backend]) -> FunctionId {
        let id = FunctionId::new_random();
        let created = self.registry.create_function(id, definition, slots);
        created.await.unwrap();
        id
    }

    /// A function that is there.
    pub async fn read(&self, id: FunctionId) -> Function {
        self.registry.function(id).await.unwrap().unwrap()
    }

    pub async fn container(&self, slot: Backend) -> Option<ContainerRecord> {
        let container = self.registry.container(slot.ip, slot.container_id);
        container.await.unwrap()
    }

    /// The function's next revision, which must be taken.
    pub async fn replace(
        &self,
        id: FunctionId,
        definition: &FunctionDefinition,
        read: Version,
        slots: &[Backend],
    ) -> FunctionRecord {
        let replaced = self
            .registry
            .replace_definition(id, definition, read, slots);
        replaced.await.unwrap()
    }

    pub async fn has_route(&self, name: &str) -> bool {
        let path = self.registry.layout().route(&hostname(name));
        self.exists(&path).await
    }

    /// Writes over a node whatever it holds, as a hand would.
    pub async fn put(&self, path: &str, data: &[u8]) {
        let put = match self.exists(path).await {
            true => self.tree.set(path, data, None).await,
            false => self.tree.create(path, data, CreateMode::Persistent).await,
        };
        put.unwrap();
    }

    pub async fn remove(&self, path: &str) {
        self.tree.delete(path, None).await.unwrap();
    }

    pub async fn exists(&self, path: &str) -> bool {
        self.tree.exists(path).await.unwrap().is_some()
    }
}

pub fn on(tree: &MemoryTree) -> Registry {
    Registry::new(Arc::new(tree.clone()), Environment::default())
}

pub fn definition(routes: &[&str]) -> FunctionDefinition {
    let mode = InvokeMode::Executable(vec!["/bin/ls".to_owned()]);
    let mut definition = FunctionDefinition::new("alpine".parse().unwrap(), mode);
    let routes = routes.iter().map(|name| hostname(name));
    definition.routes = routes.map(|hostname| Route { hostname }).collect();
    definition
}

pub fn hostname(name: &str) -> Hostname {
    Hostname::parse(name).unwrap()
}

pub fn slot(ip: Ipv4Addr) -> Backend {
    Backend {
        ip,
        container_id: ContainerId::new_random(),
    }
}

pub fn facts(epoch: &str) -> NodeFacts {
    NodeFacts {
        cores: 2,
        memory: 1 << 30,
        versions: [("bismuthd".to_owned(), "0.1.0".to_owned())].into(),
        epoch: epoch.to_owned(),
    }
}

/// What `watch_*` publishes, driven by a task of its own.
pub fn spawned<T>((shown, following): (T, impl Future<Output = ()> + Send + 'static)) -> T {
    tokio::spawn(following);
    shown
}

/// Waits until what a watch shows is as it should be.
pub async fn shows<T: Clone>(
    watch: &mut watch::Receiver<T>,
    what: &str,
    wanted: impl FnMut(&T) -> bool,
) -> T {
    match tokio::time::timeout(BOUND, watch.wait_for(wanted)).await {
        Ok(shown) => shown.expect("the watch goes on").clone(),
        Err(_) => panic!("it never showed {what}"),
    }
}
