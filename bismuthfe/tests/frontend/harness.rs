//! Harness: a frontend with a routing table given by the test, in front of scripted nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bismuth_daemon::{Shutdown, listen};
use bismuth_model::{Backend, ContainerId, FunctionId, Hostname};
use bismuth_registry::{RoutedFunction, RoutingSnapshot};
use bismuthfe::{Args, Config, Service};
use clap::Parser as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

const TIMEOUT: Duration = Duration::from_secs(20);

pub async fn within_timeout<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(TIMEOUT, what).await.expect("in time")
}

pub const FUNCTION: FunctionId = FunctionId::from_bytes([0xf0; 16]);

pub fn container(n: u8) -> ContainerId {
    ContainerId::from_bytes([n; 16])
}

/// The answer of a scripted node to one request, or `None` to close the connection.
pub type Script = dyn Fn(&str) -> Option<String> + Send + Sync;

/// Something that listens where a bismuthd would.
pub struct Node {
    pub ip: Ipv4Addr,
    pub seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Node {
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Nodes that share a port on different loopback addresses, as bismuthd's do.
pub struct Nodes {
    port: u16,
    next: AtomicUsize,
}

impl Nodes {
    pub async fn new() -> Self {
        let probe = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Nodes {
            port: probe.local_addr().unwrap().port(),
            next: AtomicUsize::new(2),
        }
    }

    pub fn config(&self) -> Config {
        Config {
            node_port: self.port,
            ..Args::parse_from(["bismuthfe"]).into()
        }
    }

    /// An address where nobody listens.
    pub fn nobody(&self) -> Ipv4Addr {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Ipv4Addr::new(127, 0, 0, u8::try_from(n).unwrap())
    }

    pub async fn start(
        &self,
        script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Node {
        let ip = self.nobody();
        let listener = TcpListener::bind((ip, self.port)).await.unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log): (Arc<Script>, _) = (Arc::new(script), seen.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(Peer::new(stream), script.clone(), log.clone()));
            }
        });
        Node { ip, seen, task }
    }
}

async fn answer(mut peer: Peer, script: Arc<Script>, seen: Arc<Mutex<Vec<String>>>) {
    while let Some(request) = peer.message().await {
        seen.lock().unwrap().push(request.clone());
        match script(&request) {
            Some(answer) => peer.send(&answer).await,
            None => return,
        }
    }
}

/// A script that answers by how many requests came before.
pub fn in_turn(
    script: impl Fn(usize) -> Option<String> + Send + Sync,
) -> impl Fn(&str) -> Option<String> + Send + Sync {
    let asked = AtomicUsize::new(0);
    move |_| script(asked.fetch_add(1, Ordering::Relaxed))
}

/// A script that tells of each request, and answers with a body that does not end.
pub fn without_end(arrived: &Arc<Semaphore>) -> impl Fn(&str) -> Option<String> + use<> {
    let arrived = arrived.clone();
    move |_| {
        arrived.add_permits(1);
        Some("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegun".into())
    }
}

pub fn ok(body: &str) -> Option<String> {
    let length = body.len();
    Some(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
}

pub fn unknown_container() -> Option<String> {
    Some(
        "HTTP/1.1 404 Not Found\r\nx-bismuth-error: unknown_container\r\nContent-Length: 0\r\n\r\n"
            .into(),
    )
}

/// One end of a raw connection.
pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        Peer {
            stream,
            seen: Vec::new(),
        }
    }

    pub async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends a request without a body.
    pub async fn get(&mut self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n");
        self.send(&request).await;
    }

    /// The answer to a request that was sent.
    pub async fn answer(&mut self) -> String {
        within_timeout(self.message()).await.expect("an answer")
    }

    /// One message with its body of `Content-Length`; `None` at the end.
    pub async fn message(&mut self) -> Option<String> {
        loop {
            let text = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(end) = text.find("\r\n\r\n") {
                let head = text[..end].to_ascii_lowercase();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                let whole = end + 4 + length.map_or(0, |length| length.parse().unwrap());
                if self.seen.len() >= whole {
                    let message = self.seen.drain(..whole).collect();
                    return Some(String::from_utf8(message).unwrap());
                }
            }
            if self.stream.read_buf(&mut self.seen).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }
}

pub struct Frontend {
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    pub routing: watch::Sender<Arc<RoutingSnapshot>>,
    pub shutdown: Shutdown,
    pub running: JoinHandle<anyhow::Result<()>>,
}

impl Frontend {
    pub async fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.addr).await.unwrap())
    }

    /// One request, one answer.
    pub async fn ask(&self, request: &str) -> String {
        let mut peer = self.connect().await;
        peer.send(request).await;
        peer.answer().await
    }

    pub async fn get(&self, path: &str) -> String {
        let mut peer = self.connect().await;
        peer.get(path).await;
        peer.answer().await
    }

    pub async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }

    /// What monitoring sees.
    pub async fn monitor(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Asks until the answer is as wanted: for what becomes true a moment later.
    pub async fn eventually(&self, path: &str, wanted: &str) {
        within_timeout(async {
            while !self.get(path).await.contains(wanted) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

pub fn invoke() -> String {
    format!("/invoke/{FUNCTION}")
}

/// Checks that all of these are in the answer.
#[track_caller]
pub fn assert_contains(answer: &str, words: &[&str]) {
    for word in words {
        assert!(answer.contains(word), "{word:?} is not in {answer}");
    }
}

pub fn function(backends: &[(Ipv4Addr, u8)]) -> RoutedFunction {
    let backend = |(ip, n): &(Ipv4Addr, u8)| Backend {
        ip: *ip,
        container_id: container(*n),
    };
    RoutedFunction {
        backends: backends.iter().map(backend).collect(),
        concurrency: 1,
        timeout: TIMEOUT,
        idle_timeout: TIMEOUT,
        startup_timeout: TIMEOUT,
        affinity: None,
        hostnames: None,
    }
}

pub fn snapshot(function: RoutedFunction) -> RoutingSnapshot {
    RoutingSnapshot {
        functions: [(FUNCTION, function)].into(),
        routes: [(Hostname::parse("fn.example").unwrap(), FUNCTION)].into(),
        complete: true,
        ..Default::default()
    }
}

/// A frontend of one function.
pub async fn frontend(nodes: &Nodes, function: RoutedFunction) -> Frontend {
    frontend_with(nodes.config(), snapshot(function)).await
}

/// A frontend of one function with one slot, on a node that answers by `script`.
pub async fn frontend_of_one_slot(
    script: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    configure: impl FnOnce(&mut Config),
) -> (Frontend, Node) {
    let nodes = Nodes::new().await;
    let node = nodes.start(script).await;
    let mut config = nodes.config();
    configure(&mut config);
    let routing = snapshot(function(&[(node.ip, 1)]));
    (frontend_with(config, routing).await, node)
}

pub async fn frontend_with(config: Config, snapshot: RoutingSnapshot) -> Frontend {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listeners = listen::bind_per_core(any, 2).unwrap();
    let addr = listeners[0].local_addr().unwrap();
    let admin_listener = listen::bind(any).unwrap();
    let admin = admin_listener.local_addr().unwrap();
    let earlier = match snapshot.complete {
        true => snapshot,
        false => bismuthfe::saved_routing(config.snapshot.as_deref()),
    };
    let (routing, receiver) = watch::channel(Arc::new(earlier));
    let shutdown = Shutdown::new();
    let service = Service::build(config, receiver);
    let running = tokio::spawn(service.run(listeners, admin_listener, shutdown.clone()));
    Frontend {
        addr,
        admin,
        routing,
        shutdown,
        running,
    }
}
