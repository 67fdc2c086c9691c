//! The accept loop over real sockets. Servers and clients share one thread, so that nothing is accepted between two awaits.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use bismuth_daemon::{AcceptLoop, Backlog, CutOff, HttpOptions, Shutdown, listen, serve_http};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

const BOUNDS: AcceptLoop = AcceptLoop {
    peers: "clients",
    max_connections: 64,
    first_byte_timeout: Duration::from_secs(20),
    drain_timeout: Duration::from_secs(20),
    backlog: Backlog::Serve,
};
const HTTP: HttpOptions = HttpOptions {
    head_timeout: Duration::from_secs(20),
    keep_alive: true,
};
const REQUEST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
const UNANSWERED: &str = "GET /never HTTP/1.1\r\nhost: a\r\n\r\n";

struct TestServer {
    address: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), CutOff>>,
}

impl TestServer {
    fn start(bounds: AcceptLoop) -> Self {
        Self::on(listen::bind(loopback()).expect("loopback"), bounds)
    }

    fn on(listener: TcpListener, bounds: AcceptLoop) -> Self {
        let address = listener.local_addr().expect("bound");
        let shutdown = Shutdown::new();
        let token = shutdown.token();
        let running = tokio::spawn(bounds.run(listener, token, |accepted| {
            accepted.spawn(async |stream, _peer, finish| {
                // How it breaks is seen by the client.
                let _ended = serve_http(stream, HTTP, finish, service_fn(answer)).await;
            });
        }));
        Self {
            address,
            shutdown,
            running,
        }
    }

    /// A client whose connection is established by the kernel alone.
    fn connect_now(&self, request: &str) -> std::net::TcpStream {
        let mut client = std::net::TcpStream::connect(self.address).expect("it listens");
        let bound = Some(Duration::from_secs(20));
        client.set_read_timeout(bound).expect("not zero");
        client.write_all(request.as_bytes()).expect("it is open");
        client
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it listens")
    }

    async fn end(self) -> Result<(), CutOff> {
        self.shutdown.trigger();
        self.running.await.expect("it does not panic")
    }
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    if request.uri().path() == "/never" {
        std::future::pending::<()>().await;
    }
    Ok(Response::new("answered".to_owned()))
}

async fn exchange(client: &mut TcpStream) -> String {
    let sent = client.write_all(REQUEST.as_bytes()).await;
    sent.expect("it is open");
    read_answer(client).await
}

async fn read_answer(client: &mut TcpStream) -> String {
    let mut answer = String::new();
    let mut part = [0; 512];
    while !answer.ends_with("answered") {
        let read = client.read(&mut part).await.expect("an answer");
        assert!(read > 0, "it was closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&part[..read]).expect("text"));
    }
    answer
}

fn all_of(mut client: std::net::TcpStream) -> io::Result<String> {
    let mut answer = String::new();
    client.read_to_string(&mut answer).map(|_| answer)
}

#[tokio::test]
async fn connections_in_the_backlog_at_the_shutdown_are_served() {
    let server = TestServer::start(BOUNDS);
    // Its runtime has heard that there is nobody to accept, and hears of nothing else before the shutdown.
    exchange(&mut server.connect().await).await;
    let clients: Vec<_> = (0..50).map(|_| server.connect_now(REQUEST)).collect();
    let address = server.address;
    assert_eq!(server.end().await, Ok(()));
    for client in clients {
        let answer = all_of(client).expect("it is not reset");
        assert!(answer.ends_with("answered"), "{answer:?}");
    }
    std::net::TcpStream::connect(address).expect_err("nobody listens any more");
}

#[tokio::test]
async fn more_connections_in_the_backlog_than_permits_are_served_one_after_the_other() {
    let server = TestServer::start(AcceptLoop {
        max_connections: 2,
        ..BOUNDS
    });
    let mut idle = server.connect().await;
    exchange(&mut idle).await;
    let clients: Vec<_> = (0..20).map(|_| server.connect_now(REQUEST)).collect();
    assert_eq!(server.end().await, Ok(()));
    for client in clients {
        let answer = all_of(client).expect("it is not reset");
        assert!(answer.ends_with("answered"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_request_that_arrived_before_the_shutdown_on_an_idle_connection_is_answered() {
    let server = TestServer::start(BOUNDS);
    let mut client = server.connect().await;
    exchange(&mut client).await;
    let sent = client.try_write(REQUEST.as_bytes());
    assert_eq!(sent.expect("it is open"), REQUEST.len());
    server.shutdown.trigger();
    read_answer(&mut client).await;
    assert_eq!(client.read(&mut [0]).await.expect("it is closed"), 0);
    assert_eq!(server.end().await, Ok(()));
}

#[tokio::test]
async fn a_client_that_connected_right_before_the_shutdown_may_still_send_its_request() {
    let server = TestServer::start(BOUNDS);
    exchange(&mut server.connect().await).await;
    let mut client = server.connect_now("");
    server.shutdown.trigger();
    for _ in 0..10 {
        yield_now().await;
    }
    client.write_all(REQUEST.as_bytes()).expect("it is open");
    assert_eq!(server.end().await, Ok(()));
    let answer = all_of(client).expect("it is not reset");
    assert!(answer.ends_with("answered"), "{answer:?}");
}

#[tokio::test]
async fn a_shared_socket_keeps_its_backlog_for_the_next_process() {
    let listener = std::net::TcpListener::bind(loopback()).expect("loopback");
    listener.set_nonblocking(true).expect("a socket");
    let other_process = listener.try_clone().expect("a descriptor");
    let bounds = AcceptLoop {
        backlog: Backlog::Retain,
        ..BOUNDS
    };
    let server = TestServer::on(TcpListener::from_std(listener).expect("a socket"), bounds);
    exchange(&mut server.connect().await).await;
    let client = server.connect_now(REQUEST);
    assert_eq!(server.end().await, Ok(()));
    let (_, peer) = other_process.accept().expect("it is still there");
    assert_eq!(peer, client.local_addr().expect("connected"));
}

#[tokio::test]
async fn a_connection_that_never_sends_a_byte_is_closed() {
    let server = TestServer::start(AcceptLoop {
        first_byte_timeout: Duration::from_millis(20),
        ..BOUNDS
    });
    let mut silent = server.connect().await;
    let mut byte = [0];
    let read = timeout(Duration::from_secs(5), silent.read(&mut byte)).await;
    let read = read.expect("sooner than a head that has begun would be");
    assert_eq!(read.expect("it is closed, not reset"), 0);
}

#[tokio::test]
async fn silent_and_idle_connections_make_room_for_one_that_asks() {
    let server = TestServer::start(AcceptLoop {
        max_connections: 4,
        ..BOUNDS
    });
    let mut earlier = Vec::new();
    for n in 0..40 {
        let mut client = server.connect().await;
        if n % 2 == 0 {
            exchange(&mut client).await;
        }
        earlier.push(client);
    }
    exchange(&mut server.connect().await).await;
    assert_eq!(earlier[0].read(&mut [0]).await.expect("closed in order"), 0);
    drop(earlier);
}

#[tokio::test]
async fn connections_that_do_not_end_within_the_drain_are_counted_and_closed() {
    let server = TestServer::start(AcceptLoop {
        drain_timeout: Duration::from_millis(50),
        max_connections: 2,
        ..BOUNDS
    });
    exchange(&mut server.connect().await).await;
    // Two are served, and one waits for a permit.
    let clients: Vec<_> = (0..3).map(|_| server.connect_now(UNANSWERED)).collect();
    let error = server.end().await.expect_err("they do not end");
    assert_eq!(error.left, 3);
    for client in clients {
        match all_of(client) {
            Ok(answer) => assert_eq!(answer, ""),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn accepting_goes_on_once_there_are_descriptors_again() {
    let server = TestServer::start(BOUNDS);
    exchange(&mut server.connect().await).await;
    let client = server.connect_now(REQUEST);
    // Of the whole process: nextest runs each test in one of its own.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("it is limited");
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).expect("lowering is allowed");
    tokio::time::sleep(Duration::from_millis(20)).await;
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("raising to the hard limit is");
    client.set_nonblocking(true).expect("a socket");
    let mut client = TcpStream::from_std(client).expect("a socket");
    read_answer(&mut client).await;
    assert_eq!(server.end().await, Ok(()));
}
