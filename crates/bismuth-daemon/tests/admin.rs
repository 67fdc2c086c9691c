//! The admin endpoints over a real socket.

use bismuth_daemon::{Admin, Policy, Shutdown, Tasks, admin, listen};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const LOOPBACK: &str = "127.0.0.1:0";

struct TestServer {
    address: SocketAddr,
    admin: Admin,
    tasks: Tasks,
    shutdown: Shutdown,
}

fn serve(registry: Registry) -> TestServer {
    let shutdown = Shutdown::new();
    let listener = listen::bind(LOOPBACK.parse().expect("an address")).expect("loopback");
    let address = listener.local_addr().expect("bound");
    let admin = Admin::new(registry).unready_on(&shutdown);
    let tasks = Tasks::new(&shutdown);
    let serving = admin::serve(listener, admin.clone(), shutdown.child());
    tasks.spawn("admin", Policy::EndsProcess, serving);
    TestServer {
        address,
        admin,
        tasks,
        shutdown,
    }
}

/// One exchange: status line, head, body.
async fn exchange(address: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{method} {path} HTTP/1.1\r\nhost: admin\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).expect("a status line");
    (
        status.parse().expect("a number"),
        head.to_owned(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn readiness_lists_the_unmet_conditions_and_follows_them() {
    let server = serve(Registry::default());
    let (status, _, body) = exchange(server.address, "GET", "/readyz").await;
    assert_eq!((status, body.as_str()), (200, "ready\n"));

    let zookeeper = server.admin.condition("zookeeper");
    let table = server.admin.condition("table");
    let (status, _, body) = exchange(server.address, "GET", "/readyz").await;
    assert_eq!(status, 503);
    assert_eq!(body, "not ready\nzookeeper: not yet\ntable: not yet\n");

    table.met();
    zookeeper.unmet("127.0.0.1:2181 refused the connection");
    let (_, _, body) = exchange(server.address, "GET", "/readyz").await;
    assert_eq!(
        body,
        "not ready\nzookeeper: 127.0.0.1:2181 refused the connection\n"
    );

    zookeeper.met();
    let (status, _, _) = exchange(server.address, "GET", "/readyz").await;
    assert_eq!(status, 200);
    let (status, _, _) = exchange(server.address, "GET", "/healthz").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn metrics_are_the_binarys_and_the_processs_in_one_page() {
    let mut registry = Registry::with_prefix("bismuthfe");
    let requests: Counter = Counter::default();
    registry.register("requests", "Requests served", requests.clone());
    requests.inc();
    let server = serve(registry);
    let (status, head, body) = exchange(server.address, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(head.contains("application/openmetrics-text; version=1.0.0"));
    for wanted in [
        "\nbismuthfe_requests_total 1\n",
        "\nprocess_resident_memory_bytes ",
        "\nprocess_open_fds ",
        "\nprocess_cpu_seconds_total ",
    ] {
        assert!(body.contains(wanted), "{wanted:?} is not in\n{body}");
    }
    assert!(body.ends_with("# EOF\n") && body.matches("# EOF").count() == 1);
}

#[tokio::test]
async fn other_paths_and_methods_are_told_what_there_is() {
    let server = serve(Registry::default());
    let (status, _, _) = exchange(server.address, "GET", "/").await;
    assert_eq!(status, 404);
    let (status, head, _) = exchange(server.address, "POST", "/metrics").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: GET, HEAD"));
    let (status, head, body) = exchange(server.address, "HEAD", "/healthz").await;
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 3"));
}

#[tokio::test]
async fn readiness_ends_with_the_shutdown_and_then_the_listener_closes() {
    let server = serve(Registry::default());
    server.shutdown.trigger();
    assert_eq!(
        server.admin.unmet(),
        [("shutdown".to_owned(), "the process is ending".to_owned())]
    );
    let drained = server.tasks.drain(Duration::from_secs(10)).await;
    drained.expect("the listener ends by itself");
    TcpStream::connect(server.address)
        .await
        .expect_err("nobody listens any more");
}
