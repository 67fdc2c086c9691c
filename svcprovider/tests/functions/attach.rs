//! Sockets are attached, detached and handed over to the next svcprovider.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::time::Duration;

use bismuth_handover::{Client, HeldSocket};
use svcprovider::attach::{Attach, AttachConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixDatagram};

use crate::harness::{Function, Harness, node};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_second_svcprovider_on_one_socket_is_refused_by_name() {
    let harness = Harness::start().await;
    let config = AttachConfig {
        socket: harness.socket.clone(),
        workers: 1,
        end_bound: SOON,
    };
    let error = Attach::bind(config).unwrap_err().to_string();
    assert!(
        error.contains("another svcprovider serves")
            && error.contains(harness.socket.to_str().unwrap()),
        "{error}"
    );
    harness.end().await;
}

#[tokio::test]
async fn a_node_that_reconnects_finds_its_sockets_and_other_nodes_do_not() {
    let (harness, function) = Harness::with_function().await;
    let mut again = Client::connect(&harness.socket, &node()).await.unwrap();
    let held = HeldSocket {
        container: function.attachment.container,
        token: function.attachment.token,
    };
    assert_eq!(again.held_sockets().await.unwrap(), [held]);
    let back = again.duplicate(held.container).await.unwrap().unwrap();
    assert_eq!(
        TcpListener::from(back).local_addr().unwrap(),
        function.address
    );
    let name = bismuth_handover::NodeName::new("127.0.0.2").unwrap();
    let mut other = Client::connect(&harness.socket, &name).await.unwrap();
    assert_eq!(other.held_sockets().await.unwrap(), []);
    assert!(other.duplicate(held.container).await.unwrap().is_none());
    other.detach(held.container).await.unwrap();
    assert_eq!(function.get("/kv/v1/x").await.status, 404);
    harness.end().await;
}

/// Has a request wait for its body: it is being served when it is asked for it.
async fn waits_for_its_body(function: &Function) -> TcpStream {
    let fields = "content-length: 4\r\nexpect: 100-continue\r\n";
    let mut stream = function.begin("PUT /kv/v1/x", fields).await;
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

/// What comes until the connection ends, soon.
async fn rest(mut stream: TcpStream) -> std::io::Result<String> {
    let mut rest = String::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_string(&mut rest)).await;
    ended.expect("it ends").map(|_| rest)
}

#[tokio::test]
async fn a_detached_container_is_served_no_more_and_what_is_in_flight_ends() {
    let (mut harness, function) = Harness::with_function().await;
    let mut idle = function.begin("GET /kv/v1/x", "").await;
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 404");
    let mut busy = waits_for_its_body(&function).await;
    let container = function.attachment.container;
    harness.client.detach(container).await.unwrap();
    assert_eq!(harness.sockets.count(), 0);
    rest(idle).await.unwrap();
    busy.write_all(b"done").await.unwrap();
    let answer = rest(busy).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    // The socket is bismuthd's alone: who comes now waits in its backlog.
    let _waits = TcpStream::connect(function.address).await.unwrap();
    let accepted = tokio::task::spawn_blocking(move || {
        function.listener.set_nonblocking(false).unwrap();
        function.listener.accept().is_ok()
    });
    assert!(tokio::time::timeout(SOON, accepted).await.unwrap().unwrap());
    harness.end().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_off_within_the_bound() {
    let (mut harness, function) = Harness::with_function().await;
    let stuck = waits_for_its_body(&function).await;
    let container = function.attachment.container;
    harness.client.detach(container).await.unwrap();
    let _cut_off = rest(stuck).await;
    harness.end().await;
}

#[tokio::test]
async fn connections_made_while_svcprovider_is_away_are_served_by_the_next_one() {
    let (harness, function) = Harness::with_function().await;
    harness.end().await;
    let waits = function
        .begin("GET /kv/v1/x", "connection: close\r\n")
        .await;
    let mut next = Harness::start().await;
    next.client
        .attach(function.attachment.clone(), function.listener.as_fd())
        .await
        .unwrap();
    let answer = rest(waits).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    next.end().await;
}

#[tokio::test]
async fn a_socket_that_does_not_listen_is_refused_and_the_connection_stays_open() {
    let (mut harness, function) = Harness::with_function().await;
    let (no_listener, _other) = UnixDatagram::pair().unwrap();
    let refused = harness
        .client
        .attach(function.attachment.clone(), no_listener.as_fd())
        .await;
    assert!(refused.unwrap_err().is_refusal());
    assert_eq!(function.get("/kv/v1/x").await.status, 404);
    assert_eq!(harness.client.held_sockets().await.unwrap().len(), 1);
    harness.end().await;
}

#[tokio::test]
async fn five_hundred_containers_cost_a_few_kibibytes_each() {
    let mut harness = Harness::start().await;
    let before = resident_kib();
    let mut functions = Vec::new();
    for n in 0..500 {
        functions.push(harness.function(&format!("g{n}")).await);
    }
    assert_eq!(harness.sockets.count(), 500);
    let each = resident_kib().saturating_sub(before) / 500;
    println!("{each} KiB for each container, the test's own part included");
    assert!(each <= 8, "{each} KiB");
    assert_eq!(functions[499].get("/kv/v1/x").await.status, 404);
    harness.end().await;
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_container_with_all_its_connections_waits_and_another_does_not() {
    let mut harness = Harness::start().await;
    let (greedy, other) = (harness.function("a").await, harness.function("b").await);
    let mut first = [0; 12];
    let mut kept = Vec::new();
    for _ in 0..256 {
        let mut stream = greedy.begin("GET /kv/v1/x", "").await;
        stream.read_exact(&mut first).await.unwrap();
        kept.push(stream);
    }
    let mut one_more = greedy.begin("GET /kv/v1/x", "").await;
    let mut waits = std::pin::pin!(one_more.read_exact(&mut first));
    let soon = Duration::from_millis(300);
    assert!(tokio::time::timeout(soon, &mut waits).await.is_err());
    assert_eq!(other.get("/kv/v1/x").await.status, 404);
    kept.pop();
    tokio::time::timeout(SOON, waits).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 404");
    harness.end().await;
}
