//! A one-hop proxy made of this crate's parts, an upstream scripted byte by byte, and a client that speaks bytes.

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bismuth_http::{
    Body, ClientConn, Connection, Deadlines, Lease, Limits, Pool, PoolLimits, Problem, exchange,
    headers, serve_connection,
};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};

/// Longer than any test takes; a test that hangs says so.
const TIMEOUT: Duration = Duration::from_secs(20);

pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(TIMEOUT, test)
            .await
            .expect("the test finishes in time");
    });
}

/// Runs `script` for each connection; `accepted` counts them.
pub struct Upstream {
    pub addr: SocketAddr,
    pub accepted: Rc<Cell<usize>>,
}

pub async fn upstream<F, S>(script: S) -> Upstream
where
    S: Fn(Peer) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let accepted = Rc::new(Cell::new(0));
    let count = accepted.clone();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.set(count.get() + 1);
            spawn_local(script(Peer::new(stream)));
        }
    });
    Upstream { addr, accepted }
}

/// Asks a proxy in front of an upstream that follows `script`.
pub async fn ask_through<F, S>(request: &str, script: S) -> Peer
where
    S: Fn(Peer) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    ask_with(Settings::default(), request, script).await
}

/// The same of a proxy with these settings.
pub async fn ask_with<F, S>(settings: Settings, request: &str, script: S) -> Peer
where
    S: Fn(Peer) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let upstream = upstream(script).await;
    proxy_with(upstream.addr, settings).await.ask(request).await
}

/// What a script and a test tell each other, as often as it is awaited. It lives as long as the process.
pub fn signal() -> &'static Notify {
    Box::leak(Box::default())
}

/// A `GET` of `/`.
pub const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// One end of a raw connection.
pub struct Peer {
    stream: TcpStream,
    seen: Vec<u8>,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Peer {
            stream,
            seen: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub async fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    async fn fill(&mut self) -> usize {
        self.seen.reserve(64 * 1024);
        self.stream.read_buf(&mut self.seen).await.unwrap_or(0)
    }

    /// Reads up to and including `end`, and takes it.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = text.find(end) {
                let taken = self.seen.drain(..at + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            assert_ne!(self.fill().await, 0, "ended before {end:?}, after {text:?}");
        }
    }

    /// One head, lower-cased so that assertions need not care.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await.to_ascii_lowercase()
    }

    /// Reads a head and sends this.
    pub async fn answer(&mut self, bytes: impl AsRef<[u8]>) {
        self.head().await;
        self.send(bytes).await;
    }

    pub async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.seen.len() < length {
            assert_ne!(self.fill().await, 0, "ended early");
        }
        self.seen.drain(..length).collect()
    }

    /// Everything up to the end of the stream (or its reset).
    pub async fn until_end(&mut self) -> String {
        while self.fill().await != 0 {}
        String::from_utf8(std::mem::take(&mut self.seen)).unwrap()
    }

    /// Reads without keeping.
    pub async fn count_to_end(&mut self) -> u64 {
        let mut total = self.seen.len() as u64;
        self.seen.clear();
        loop {
            let read = self.fill().await as u64;
            self.seen.clear();
            total += read;
            if read == 0 {
                return total;
            }
        }
    }

    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

/// What a test may turn on the proxy.
#[derive(Clone)]
pub struct Settings {
    pub limits: Limits,
    pub deadlines: Deadlines,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            limits: Limits::new("test"),
            deadlines: Deadlines {
                head: TIMEOUT,
                idle: TIMEOUT,
            },
        }
    }
}

pub struct Proxy {
    addr: SocketAddr,
    pub drain: watch::Sender<bool>,
}

impl Proxy {
    pub async fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.addr).await.unwrap())
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: &str) -> Peer {
        let mut peer = self.connect().await;
        peer.send(request).await;
        peer
    }
}

pub async fn proxy(upstream: SocketAddr) -> Proxy {
    proxy_with(upstream, Settings::default()).await
}

pub async fn proxy_with(upstream: SocketAddr, settings: Settings) -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let pool = Pool::new(PoolLimits::default());
    let (drain, drained) = watch::channel(false);
    spawn_local(async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (pool, settings, mut drained) = (pool.clone(), settings.clone(), drained.clone());
            spawn_local(async move {
                let deadlines = settings.deadlines;
                let service = move |request, client| {
                    forward(upstream, pool.clone(), deadlines, request, client)
                };
                let drained = async move {
                    if drained.wait_for(|drained| *drained).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                let served =
                    serve_connection(stream, peer, &settings.limits, drained, service).await;
                drop(served);
            });
        }
    });
    Proxy { addr, drain }
}

async fn forward(
    upstream: SocketAddr,
    pool: Pool<SocketAddr>,
    deadlines: Deadlines,
    request: Request<Incoming>,
    client: ClientConn,
) -> Response<Body> {
    let mut request = request.map(Body::from);
    headers::strip_request(request.headers_mut());
    let lease = match lease(upstream, &pool).await {
        Ok(lease) => lease,
        Err(error) => return problem("connect", error.to_string()),
    };
    match exchange(lease, request, deadlines, &client).await {
        Ok(reply) => reply.deliver(&client, None),
        Err(error) => {
            let code = match error {
                ref e if e.never_written() => "never_written",
                ref e if e.is_malformed_response() => "malformed",
                bismuth_http::ExchangeError::HeadTimeout { .. } => "head_timeout",
                bismuth_http::ExchangeError::RequestSilent { .. } => "request_silent",
                bismuth_http::ExchangeError::RequestBody(_) => "request_body",
                bismuth_http::ExchangeError::Send(_) => "broken",
            };
            problem(code, error.to_string())
        }
    }
}

async fn lease(upstream: SocketAddr, pool: &Pool<SocketAddr>) -> std::io::Result<Lease> {
    if let Some(lease) = pool.checkout(&upstream) {
        return Ok(lease);
    }
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let connection = Connection::handshake(stream)
        .await
        .map_err(std::io::Error::other)?;
    Ok(pool.adopt(upstream, connection))
}

fn problem(code: &'static str, detail: String) -> Response<Body> {
    Problem::new(StatusCode::BAD_GATEWAY, code, "test", detail).into_response()
}
