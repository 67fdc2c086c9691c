//! What a read of a key costs over an empty answer of the same server: both over kept connections on loopback, with records in
//! memory, so that it is the way that is measured and not the engine.
//!
//! `cargo run --release -p svcprovider --example read_latency`
#![allow(clippy::unwrap_used)]

#[path = "../tests/functions/fakes.rs"]
#[allow(dead_code)]
mod fakes;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_daemon::Shutdown;
use bismuth_handover::{Attachment, Client, NodeName, TokenDigest};
use bismuth_http::{Body, Limits, serve_connection};
use bismuth_model::{ContainerId, FunctionId, ServiceQuotas};
use svcprovider::attach::{Attach, AttachConfig};
use svcprovider::blobs::{Blobs, Settings};
use svcprovider::http::{Memory, Services};
use svcprovider::metrics::Metrics;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const RUNS: usize = 20_000;
const VALUE: &str = "a value of some tens of bytes, as keys have them";

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let (store, shutdown) = (Arc::new(fakes::Store::default()), Shutdown::new());
    let config = AttachConfig {
        socket: dir.path().join("s"),
        workers: 1,
        end_bound: Duration::from_secs(1),
    };
    let socket = config.socket.clone();
    let services = Services {
        records: store.clone(),
        blobs: Blobs::new(store.clone(), store.clone(), Settings::default()),
        secrets: store,
        has_other_nodes: false,
        memory: Memory::of_the_process(),
        metrics: Metrics::default(),
    };
    let attach = Attach::bind(config).unwrap();
    let running = tokio::spawn(attach.run(services, shutdown.clone()));
    let node = NodeName::new("127.0.0.1").unwrap();
    let mut client = Client::connect(&socket, &node).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let attachment = Attachment {
        container: ContainerId::new_random(),
        function: FunctionId::new_random(),
        group: "g".parse().unwrap(),
        quotas: ServiceQuotas::default(),
        token: TokenDigest::of(b"token"),
    };
    client.attach(attachment, listener.as_fd()).await.unwrap();
    let empty = serve_empty();
    let head = "HTTP/1.1\r\nhost: 169.254.169.254:9000\r\nauthorization: Bearer token\r\n";
    let put = format!(
        "PUT /kv/v1/key {head}content-length: {}\r\n\r\n{VALUE}",
        VALUE.len()
    );
    time(address, &put, 1).await;
    let get = format!("GET /kv/v1/key {head}\r\n");
    for _ in 0..3 {
        report("an empty answer", time(empty, &get, RUNS).await);
        report("a read of a key", time(address, &get, RUNS).await);
    }
    shutdown.trigger();
    running.await.unwrap().unwrap();
}

/// The same server, on a thread of its own, with nothing behind it.
fn serve_empty() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::task::spawn_local(async move {
                let limits = Limits::new("empty");
                let never = std::future::pending();
                let answer = |_, _| async { http::Response::new(Body::empty()) };
                let _ended = serve_connection(stream, peer, &limits, never, answer).await;
            });
        }
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, serve)
    });
    address
}

/// How long each of so many requests over one connection takes, sorted.
async fn time(address: SocketAddr, request: &str, runs: usize) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = vec![0; 4096];
    let mut times = Vec::with_capacity(runs);
    for _ in 0..runs {
        let start = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        // Small answers come in one piece over loopback.
        let length = stream.read(&mut answer).await.unwrap();
        times.push(start.elapsed());
        assert!(answer[..length].starts_with(b"HTTP/1.1 20"));
    }
    times.sort();
    times
}

fn report(what: &str, times: Vec<Duration>) {
    let at = |share: f64| times[(times.len() as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("{what}: p50 {:.1} µs, p99 {:.1} µs", at(0.5), at(0.99));
}
