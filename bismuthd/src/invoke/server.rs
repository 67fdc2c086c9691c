//! Server mode: forwards the request to the program on the loopback of the container's network namespace.

use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdTcpStream};
use std::time::Duration;

use bismuth_http::replay::REPLAY_LIMIT;
use bismuth_http::{
    Body, ClientConn, Connection, Deadlines, ExchangeError, Lease, Pool, Problem, Replay, Reply,
    exchange,
};
use bismuth_sandbox::netns;
use http::{Request, StatusCode};
use tokio::net::{TcpSocket, TcpStream};

use super::problems::{exchange_failed, problem, unless_it_ended};
use crate::node::slot::{ContainerEndpoint, Slot};

/// Loopback connects at once or is refused; it waits only while the program's backlog is full.
const CONNECT_BOUND: Duration = Duration::from_secs(5);

/// Pool of idle connections, keyed by the start of a container so that none outlives the process it leads to.
pub type UpstreamPool = Pool<u64>;

/// Sends the request to the program and returns the head of its answer.
pub async fn forward(
    pool: &UpstreamPool,
    slot: &Slot,
    server: &ServerEndpoint,
    request: Request<Body>,
    client: &ClientConn,
) -> Result<Reply, Problem> {
    let definition = &slot.definition;
    let deadlines = Deadlines {
        head: Duration::from_millis(definition.timeout_ms),
        idle: Duration::from_millis(definition.idle_timeout_ms),
    };
    // A program that handles one connection at a time would wait on our idle one for ever.
    let pooled = definition.concurrency > 1;
    let (head, body) = request.into_parts();
    let replay = Replay::new(body, REPLAY_LIMIT);
    loop {
        let (lease, reused) = match pool.checkout(&server.start_id()) {
            Some(lease) if pooled => (lease, true),
            _ => match connect(pool, server, pooled).await {
                Ok(connected) => connected,
                Err(refused) => {
                    return Err(unless_it_ended(slot, server.start_id(), refused).await);
                }
            },
        };
        let Some(body) = replay.body() else {
            return Err(problem(
                StatusCode::BAD_GATEWAY,
                "function_connection_broken",
                "the function closed the connection while the request was being sent",
            ));
        };
        let attempt = Request::from_parts(head.clone(), body);
        match exchange(lease, attempt, deadlines, client).await {
            Ok(reply) => return Ok(reply),
            // It closed an idle connection as we took it: nothing was written, a fresh one is due.
            Err(error) if reused && error.never_written() && replay.can_restart() => {}
            Err(error) => return Err(explain(slot, server, &error).await),
        }
    }
}

/// Where one worker reaches a running server.
#[derive(Debug)]
pub struct ServerEndpoint {
    endpoint: std::sync::Arc<ContainerEndpoint>,
    port: u16,
}

impl ServerEndpoint {
    /// `port` is where the program listens.
    pub fn new(endpoint: std::sync::Arc<ContainerEndpoint>, port: u16) -> Self {
        Self { endpoint, port }
    }

    fn start_id(&self) -> u64 {
        self.endpoint.start_id
    }
}

/// A connection, and whether it is older than the request: then the program may have closed it meanwhile.
async fn connect(
    pool: &UpstreamPool,
    server: &ServerEndpoint,
    pooled: bool,
) -> Result<(Lease, bool), Problem> {
    let first = server.endpoint.take_first_connection();
    let older = first.is_some();
    let stream = match first {
        Some(first) => adopt(first),
        None => open(server).await,
    };
    let failed = |source: std::io::Error| {
        let detail = format!("connect to port {} in the container: {source}", server.port);
        problem(StatusCode::BAD_GATEWAY, "function_not_listening", detail).retryable()
    };
    let stream = stream.map_err(failed)?;
    let connection = Connection::handshake(stream)
        .await
        .map_err(|e| failed(std::io::Error::other(e)))?;
    let lease = if pooled {
        pool.adopt(server.start_id(), connection)
    } else {
        Lease::unpooled(connection)
    };
    Ok((lease, older))
}

fn adopt(stream: StdTcpStream) -> std::io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

async fn open(server: &ServerEndpoint) -> std::io::Result<TcpStream> {
    let socket =
        netns::tcp_socket(server.endpoint.namespaces.net_fd()).map_err(std::io::Error::other)?;
    let socket = TcpSocket::from_std_stream(StdTcpStream::from(socket));
    socket.set_nodelay(true)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port));
    tokio::time::timeout(CONNECT_BOUND, socket.connect(address))
        .await
        .map_err(|_elapsed| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn explain(slot: &Slot, server: &ServerEndpoint, error: &ExchangeError) -> Problem {
    let failed = exchange_failed(error, slot.definition.timeout_ms);
    if !matches!(error, ExchangeError::Send(_)) {
        return failed;
    }
    unless_it_ended(slot, server.start_id(), failed).await
}
