//! Test harness: a svcprovider, a handover client in place of bismuthd, and an HTTP client in place of functions.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bismuth_daemon::Shutdown;
use bismuth_handover::{Attachment, Client, NodeName, TokenDigest};
use bismuth_model::{ContainerId, FunctionId, ServiceQuotas};
use bismuth_store::blobs::{Blobs, Settings};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use svcprovider::attach::{Attach, AttachConfig, AttachError, SocketCount};
use svcprovider::http::{AppState, MemoryBudget};
use svcprovider::metrics::Metrics;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::fakes::Store;

pub const HOST: &str = "169.254.169.254:9000";

pub fn node() -> NodeName {
    NodeName::new("127.0.0.1").unwrap()
}

/// A svcprovider that runs.
pub struct Harness {
    pub store: Arc<Store>,
    pub client: Client,
    pub socket: PathBuf,
    pub sockets: SocketCount,
    /// The metrics.
    pub registry: Registry,
    pub shutdown: Shutdown,
    running: JoinHandle<Result<(), AttachError>>,
    _dir: TempDir,
}

impl Harness {
    pub async fn start() -> Self {
        Self::start_on(Arc::new(Store::default()), false).await
    }

    /// One of several nodes, if it `has_other_nodes`, on a store.
    pub async fn start_on(store: Arc<Store>, has_other_nodes: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let shutdown = Shutdown::new();
        let attach = Attach::bind(AttachConfig {
            socket: socket.clone(),
            workers: 2,
            end_bound: Duration::from_secs(2),
        })
        .unwrap();
        let mut registry = Registry::with_prefix("svcprovider");
        let app = AppState {
            records: store.clone(),
            blobs: Blobs::new(store.clone(), store.clone(), Settings::default()),
            secrets: store.clone(),
            has_other_nodes,
            memory: MemoryBudget::of_the_process(),
            metrics: Metrics::new(&mut registry),
        };
        let sockets = attach.socket_count();
        registry.register_collector(Box::new(sockets.clone()));
        let running = tokio::spawn(attach.run(app, shutdown.clone()));
        let client = Client::connect(&socket, &node()).await.unwrap();
        Self {
            store,
            client,
            socket,
            sockets,
            registry,
            shutdown,
            running,
            _dir: dir,
        }
    }

    /// A svcprovider, and a function of the group `a`.
    pub async fn with_function() -> (Self, Function) {
        let mut harness = Self::start().await;
        let function = harness.function("a").await;
        (harness, function)
    }

    /// Attaches a function of a group.
    pub async fn function(&mut self, group: &str) -> Function {
        self.function_with(group, ServiceQuotas::default()).await
    }

    pub async fn function_with(&mut self, group: &str, quotas: ServiceQuotas) -> Function {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let container = ContainerId::new_random();
        let token = format!("token-of-{container}");
        let attachment = Attachment {
            container,
            function: FunctionId::new_random(),
            group: group.parse().unwrap(),
            quotas,
            token: TokenDigest::of(token.as_bytes()),
        };
        let address = listener.local_addr().unwrap();
        self.client
            .attach(attachment.clone(), listener.as_fd())
            .await
            .unwrap();
        Function {
            address,
            token,
            attachment,
            listener,
        }
    }

    /// Ends it in good order.
    pub async fn end(self) {
        self.shutdown.trigger();
        self.running.await.unwrap().unwrap();
    }
}

/// A function, as its services see it; its listener is bismuthd's copy.
pub struct Function {
    pub address: SocketAddr,
    pub token: String,
    pub attachment: Attachment,
    pub listener: TcpListener,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The code of a problem, checked to be one.
    #[track_caller]
    pub fn code(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{self:?}"
        );
        let document = self.json();
        assert_eq!(document["component"], "svcprovider");
        assert_eq!(document["status"], self.status.as_u16());
        document["code"].as_str().unwrap().to_owned()
    }

    /// What a problem says to people.
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// Checks that it is this problem; `case` says of what.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, code: &str, case: &str) {
        assert_eq!(
            (self.status.as_u16(), &*self.code()),
            (status, code),
            "{case}"
        );
    }
}

impl Function {
    /// A request with its token.
    pub fn request(&self, method: &str, target: &str) -> http::request::Builder {
        Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(target)
            .header("host", HOST)
            .header("authorization", self.bearer())
    }

    /// What it shows in `Authorization`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// A connection on which a request has begun: its head is sent, with the token and `fields`, each with its end.
    pub async fn begin(&self, request: &str, fields: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "host: {HOST}\r\nauthorization: {}\r\n{fields}",
            self.bearer()
        );
        let head = format!("{request} HTTP/1.1\r\n{head}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }

    /// A request that says how long its body is, and ends after a part of it.
    pub async fn cut_off(&self, request: &str, length: usize, part: &[u8]) {
        let fields = format!("content-length: {length}\r\n");
        let mut stream = self.begin(request, &fields).await;
        stream.write_all(part).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ended = stream.read_to_end(&mut Vec::new()).await;
    }

    pub async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Reply {
        let request = request.body(Full::new(body.into())).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        drop(sender);
        connection.abort();
        Reply {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    pub async fn call(&self, method: &str, target: &str, body: impl Into<Bytes>) -> Reply {
        self.send(self.request(method, target), body).await
    }

    pub async fn get(&self, target: &str) -> Reply {
        self.call("GET", target, "").await
    }

    /// A call with one more field.
    pub async fn with(
        &self,
        method: &str,
        target: &str,
        (name, value): (&str, &str),
        body: impl Into<Bytes>,
    ) -> Reply {
        self.send(self.request(method, target).header(name, value), body)
            .await
    }
}
