//! HTTP client for the log of one container on its node.
//!
//! `GET http://{node}:{port}/logs/{container}?tail=&since=&follow=` answers with CRI records. One
//! connection per log: it carries a long answer and is then of no more use.

use std::time::Duration;

use bismuth_base::chain;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::record::{Instance, LineTooLong, Lines, Record};

/// Nodes are on the same network.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A node answers as soon as it has opened the file.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A log that is not followed comes as fast as a disk can be read.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// A followed log may be silent for hours; this finds out that the node is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Of a node's refusal, more is not worth showing.
const REFUSAL_BYTES: usize = 4096;

/// Why there are no (more) records.
#[derive(Debug, thiserror::Error)]
pub(super) enum LogError {
    #[error("connect to node {address}")]
    Connect {
        address: String,
        source: std::io::Error,
    },
    #[error("{act} node {address}: no answer within {} s", .bound.as_secs())]
    Timeout {
        act: &'static str,
        address: String,
        bound: Duration,
    },
    #[error("ask node {address} for a log")]
    Exchange {
        address: String,
        source: hyper::Error,
    },
    #[error("node {address} answered {status}: {detail}")]
    Refused {
        address: String,
        status: StatusCode,
        detail: String,
    },
    #[error("read a log from node {address}")]
    Broken {
        address: String,
        source: hyper::Error,
    },
    #[error("read a log from node {address}")]
    Malformed {
        address: String,
        source: LineTooLong,
    },
}

/// Which records are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogOptions {
    /// At most so many of the newest.
    pub(super) tail: Option<usize>,
    /// None that is older, in the form that records have.
    pub(super) since: Option<String>,
    /// Those to come as well.
    pub(super) follow: bool,
}

impl LogOptions {
    fn query(&self) -> String {
        let tail = self
            .tail
            .map(|lines| format!("&tail={lines}"))
            .unwrap_or_default();
        let since = self
            .since
            .as_ref()
            .map(|time| format!("&since={time}"))
            .unwrap_or_default();
        format!("follow={}{tail}{since}", self.follow)
    }
}

/// Asks nodes for logs. Clones are the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogClient {
    node_port: u16,
}

impl LogClient {
    pub(crate) fn new(node_port: u16) -> Self {
        Self { node_port }
    }

    /// Opens a log. `None` if the node has none of this container (yet).
    pub(super) async fn open(
        &self,
        instance: Instance,
        options: &LogOptions,
    ) -> Result<Option<Records>, LogError> {
        let address = format!("{}:{}", instance.ip, self.node_port);
        let stream = connect(&address).await?;
        let exchange = |source| LogError::Exchange {
            address: address.clone(),
            source,
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(exchange)?;
        // Ends with the connection, and is cut off when the records are dropped.
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let path = format!("/logs/{}?{}", instance.container_id, options.query());
        let request = Request::get(path)
            .header(HOST, &address)
            .body(Empty::<Bytes>::new());
        // An id and digits are a valid path; a request that cannot be built is a connection refused.
        let Ok(request) = request else {
            return Ok(None);
        };
        let answer = within(HEAD_TIMEOUT, "ask", &address, sender.send_request(request));
        let answer = answer.await?.map_err(exchange)?;
        match answer.status() {
            StatusCode::OK => Ok(Some(Records {
                body: answer.into_body(),
                lines: Lines::default(),
                bound: (!options.follow).then_some(IDLE_TIMEOUT),
                address,
                _driver: driver,
            })),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(LogError::Refused {
                status,
                detail: refusal(answer.into_body()).await,
                address,
            }),
        }
    }
}

async fn connect(address: &str) -> Result<TcpStream, LogError> {
    let failed = |source| LogError::Connect {
        address: address.to_owned(),
        source,
    };
    let connecting = TcpStream::connect(address);
    let stream = within(CONNECT_TIMEOUT, "connect to", address, connecting)
        .await?
        .map_err(failed)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE);
    SockRef::from(&stream)
        .set_tcp_keepalive(&keepalive)
        .map_err(failed)?;
    Ok(stream)
}

async fn refusal(body: Incoming) -> String {
    match timeout(HEAD_TIMEOUT, Limited::new(body, REFUSAL_BYTES).collect()).await {
        Ok(Ok(whole)) => String::from_utf8_lossy(&whole.to_bytes()).into_owned(),
        Ok(Err(error)) => format!("(its answer cannot be read: {})", chain(error.as_ref())),
        Err(_) => "(its answer did not arrive)".to_owned(),
    }
}

/// Gives up on a node that is silent for so long.
async fn within<T>(
    bound: Duration,
    act: &'static str,
    address: &str,
    work: impl Future<Output = T>,
) -> Result<T, LogError> {
    timeout(bound, work).await.map_err(|_| LogError::Timeout {
        act,
        address: address.to_owned(),
        bound,
    })
}

/// The records of one container, oldest first.
#[derive(Debug)]
pub(super) struct Records {
    body: Incoming,
    lines: Lines,
    /// How long the node may be silent.
    bound: Option<Duration>,
    address: String,
    _driver: AbortOnDropHandle<hyper::Result<()>>,
}

impl Records {
    /// The next one; `None` at the end. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Option<Record>, LogError> {
        loop {
            let line = self.lines.next().map_err(|source| LogError::Malformed {
                address: self.address.clone(),
                source,
            })?;
            match line.map(Record::parse) {
                Some(Some(record)) => return Ok(Some(record)),
                Some(None) => {
                    tracing::debug!(node = self.address, "a line of a log is not a record")
                }
                None if !self.fill().await? => return Ok(None),
                None => {}
            }
        }
    }

    /// Takes what has arrived; `false` at the end.
    async fn fill(&mut self) -> Result<bool, LogError> {
        let frame = match self.bound {
            None => self.body.frame().await,
            Some(bound) => {
                let frame = self.body.frame();
                within(bound, "read a log from", &self.address, frame).await?
            }
        };
        match frame {
            None => Ok(false),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.lines.push(data);
                }
                Ok(true)
            }
            Some(Err(source)) => Err(LogError::Broken {
                address: self.address.clone(),
                source,
            }),
        }
    }
}
