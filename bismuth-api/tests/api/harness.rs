//! Runs the API on an in-memory registry and calls it over HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bismuth_api::{Args, Service};
use bismuth_coord::MemoryTree;
use bismuth_daemon::Shutdown;
use bismuth_model::{Backend, ContainerState, ContainerStatus, FunctionId, NodeFacts};
use bismuth_registry::{Function, NodeRegistration, Registry};
use bismuth_testkit::http::{full, send_whole};
use bytes::Bytes;
use clap::Parser as _;
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::document;

/// Longer than anything takes on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);
pub const NODE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 1);

/// A running API and what it stands on.
pub struct Harness {
    pub tree: MemoryTree,
    pub registry: Registry,
    pub api: RunningApi,
    _announcements: Vec<NodeRegistration>,
}

/// One API process, so to say.
pub struct RunningApi {
    address: SocketAddr,
    shutdown: Shutdown,
    work: JoinHandle<anyhow::Result<()>>,
}

impl RunningApi {
    /// With a session of its own.
    pub fn start(tree: &MemoryTree, more: &[&str]) -> Self {
        Self::start_on(tree.another_session(), more)
    }

    pub fn start_on(tree: MemoryTree, more: &[&str]) -> Self {
        let flags = ["bismuth-api", "--listen", "127.0.0.1:0", "--settle", "20ms"];
        let args = Args::parse_from(flags.iter().chain(more));
        let registry = registry_on(tree);
        let service = Service::with_registry(args, registry).unwrap();
        let address = service.address().unwrap();
        let shutdown = Shutdown::new();
        let work = tokio::spawn(service.run(shutdown.clone()));
        Self {
            address,
            shutdown,
            work,
        }
    }

    pub async fn stop(self) {
        self.shutdown.trigger();
        self.work.await.unwrap().unwrap();
    }

    pub fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
    }

    /// Every answer has to be as the OpenAPI document says.
    pub async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let answer = send(self.request(method.clone(), path), body).await;
        document::check(&method, path, &answer);
        answer
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, "").await
    }

    /// The value of a gauge.
    pub async fn gauge(&self, name: &str) -> i64 {
        gauge(&self.get("/metrics").await.text(), name).unwrap()
    }
}

/// Sends what was built by hand.
pub async fn send(request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
    Answer(send_whole(request.body(full(body)).unwrap()).await.unwrap())
}

/// A whole answer.
pub struct Answer(pub Response<Bytes>);

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.body().to_vec()).unwrap()
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.0.status(), StatusCode::OK, "{}", self.text());
        serde_json::from_slice(self.0.body()).unwrap()
    }

    /// Checks that it is a problem of ours, and returns it.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let text = self.text();
        assert_eq!(self.0.status().as_u16(), status, "{text}");
        assert_eq!(self.0.headers()["content-type"], "application/problem+json");
        assert_eq!(self.0.headers()["x-bismuth-error"], code, "{text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        let id = self.0.headers()["x-request-id"].to_str().unwrap();
        assert_has(
            &problem,
            json!({"code": code, "status": status, "component": "bismuth-api", "request_id": id}),
        );
        problem
    }
}

/// Compares the members that are named.
#[track_caller]
pub fn assert_has(value: &Value, members: Value) {
    for (name, wanted) in members.as_object().unwrap() {
        assert_eq!(value[name], *wanted, "{name} in {value}");
    }
}

impl Harness {
    /// With these nodes, alive.
    pub async fn with_nodes(nodes: &[Ipv4Addr]) -> Self {
        Self::start(nodes, &[]).await
    }

    pub async fn start(nodes: &[Ipv4Addr], args: &[&str]) -> Self {
        let tree = MemoryTree::new();
        let registry = registry_on(tree.clone());
        registry.bootstrap().await.unwrap();
        let mut announcements = Vec::new();
        for ip in nodes {
            registry.provision_node(*ip).await.unwrap();
            announcements.push(registry.register_node(*ip, &facts()).await.unwrap());
        }
        let api = RunningApi::start(&tree, args);
        Self {
            tree,
            registry,
            api,
            _announcements: announcements,
        }
    }

    pub async fn create(&self, definition: &Value) -> FunctionId {
        let body = definition.to_string();
        let made = self.api.call(Method::POST, "/function", body).await.ok();
        made["id"].as_str().unwrap().parse().unwrap()
    }

    /// Writes the status of a slot, as its node does.
    pub async fn report_status(&self, slot: Backend, state: ContainerState, reason: Option<&str>) {
        let status = ContainerStatus {
            state,
            reason: reason.map(str::to_owned),
            ..ContainerStatus::assigned(0)
        };
        self.registry
            .update_container_status(slot.ip, slot.container_id, &status)
            .await
            .unwrap();
    }

    /// The program in the slot runs, as its node reports.
    pub async fn runs(&self, slot: Backend) {
        self.report_status(slot, ContainerState::Running, None)
            .await;
    }

    pub async fn function(&self, id: FunctionId) -> Function {
        self.registry.function(id).await.unwrap().unwrap()
    }

    /// The slots of the newest revision.
    pub async fn newest(&self, id: FunctionId) -> Vec<Backend> {
        let revision = self.function(id).await.record.revision;
        let mut slots = self.registry.function_containers(id).await.unwrap();
        slots.retain(|(_, record)| record.revision == revision);
        slots.into_iter().map(|(slot, _)| slot).collect()
    }

    pub async fn all_slots(&self, id: FunctionId) -> Vec<Backend> {
        let slots = self.registry.function_containers(id).await.unwrap();
        slots.into_iter().map(|(slot, _)| slot).collect()
    }

    pub async fn routed(&self, id: FunctionId) -> Vec<Backend> {
        self.function(id).await.backends
    }
}

/// The value of a gauge in a page of metrics.
pub fn gauge(metrics: &str, name: &str) -> Result<i64, String> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| format!("{name} is not in\n{metrics}"))
}

pub fn registry_on(tree: MemoryTree) -> Registry {
    Registry::new(Arc::new(tree), "test".parse().unwrap())
}

pub fn facts() -> NodeFacts {
    NodeFacts {
        cores: 8,
        memory: 16 << 30,
        versions: [("bismuthd".to_owned(), "0.1.0".to_owned())].into(),
        epoch: "e".into(),
    }
}

pub fn definition() -> Value {
    json!({"image": "docker.io/library/alpine:latest", "invoke_mode": {"Executable": ["/bin/ls"]}})
}
