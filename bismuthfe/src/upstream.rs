//! Pooled connections to worker nodes, per frontend worker, and which nodes are suspect after a failed connect.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bismuth_http::{Connection, Lease, Pool};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::metrics::Metrics;

/// For how long a node that could not be reached is the last resort. Short: a bismuthd restarts within a second.
const SUSPECT_FOR: Duration = Duration::from_secs(1);

/// Why a node cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The kernel said no.
    #[error("connect to {address}")]
    Refused {
        address: SocketAddr,
        source: std::io::Error,
    },
    /// Nobody said anything.
    #[error("connect to {address}: no answer within {} ms", .after.as_millis())]
    TimedOut {
        address: SocketAddr,
        after: Duration,
    },
    /// HTTP did not start.
    #[error("connect to {address}")]
    Handshake {
        address: SocketAddr,
        source: bismuth_http::client::HandshakeError,
    },
}

/// One worker's connections to all nodes.
pub(crate) struct Upstreams {
    pool: Pool<SocketAddr>,
    connect_timeout: Duration,
    suspect: RefCell<HashMap<Ipv4Addr, Instant>>,
    metrics: Metrics,
}

impl Upstreams {
    pub(crate) fn new(config: &Config, metrics: Metrics) -> Self {
        Upstreams {
            pool: Pool::new(config.pool),
            connect_timeout: config.connect_timeout,
            suspect: RefCell::default(),
            metrics,
        }
    }

    /// Closes idle connections in time, for ever.
    pub(crate) async fn keep_swept(&self) {
        self.pool.clone().keep_swept().await;
    }

    pub(crate) fn idle(&self, address: SocketAddr) -> Option<Lease> {
        self.pool.checkout(&address)
    }

    pub(crate) async fn connect(&self, address: SocketAddr) -> Result<Lease, ConnectError> {
        self.metrics.connect();
        let after = self.connect_timeout;
        let stream = match timeout(after, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(ConnectError::Refused { address, source }),
            Err(_) => return Err(ConnectError::TimedOut { address, after }),
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "requests may be delayed by Nagle's algorithm");
        }
        let connection = Connection::handshake(stream).await;
        let connection =
            connection.map_err(|source| ConnectError::Handshake { address, source })?;
        Ok(self.pool.adopt(address, connection))
    }

    pub(crate) fn mark_suspect(&self, node: Ipv4Addr) {
        self.suspect
            .borrow_mut()
            .insert(node, Instant::now() + SUSPECT_FOR);
    }

    /// Whether the node could not be reached a moment ago.
    pub(crate) fn is_suspect(&self, node: Ipv4Addr) -> bool {
        let mut suspect = self.suspect.borrow_mut();
        // The usual case costs no more than this.
        if suspect.is_empty() {
            return false;
        }
        let now = Instant::now();
        suspect.retain(|_, until| *until > now);
        suspect.contains_key(&node)
    }
}
