//! The tree in ZooKeeper. This is the only file of the workspace that names the client library; its submodules
//! know it as `zk`.
//!
//! ```text
//!             ┌──────────── supervisor (one task per tree) ─────────────┐
//!             │  connect ──► watch the session ──► ended: connect anew  │
//!             └───────┬─────────────────────────────────────────────────┘
//!                     ▼ publishes
//!   ConnectionState { client | since, why }       SessionState
//!         ▲                 ▲                        ▲
//!      each call        each watch's task        owners of
//!   (fails fast while   (sets its watch          ephemeral nodes
//!    disconnected)       again, sends Lost)
//! ```
//!
//! What a call does:
//! 1. take the client from the connection state; while disconnected, wait for at most `connected_wait` from when the
//!    connection was lost;
//! 2. send the request and wait for the answer, the loss of the connection, or the deadline;
//! 3. an answer is returned. Without one, a read starts over within its deadline; a change says
//!    [`Error::UnknownOutcome`]. (The library keeps a request that found the connection gone and sends it on
//!    the next one, ahead of any later read on this tree: a re-read sees what became of it.)
//!
//! Two things about the library (0.11) shape this file. It ends a session for good in the states `Expired`,
//! `Closed` and `AuthFailed`; the supervisor then builds a new client. And it does not set its persistent watches
//! anew on another connection (`WatchManager::resend_watches` never gets to the lists that hold them), so the
//! watch tasks do, on each connection. What happened in between nobody tells (ZOOKEEPER-4698): hence [`Event::Lost`](crate::Event::Lost).

mod client;
mod load;
mod request;
mod transaction;
mod watch_task;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bismuth_base::Backoff;
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;
use tracing::debug;
use zookeeper_client as zk;

use self::client::{ConnectionState, ZkClient, supervise};
use self::request::{options_of, versioned};
use self::watch_task::{WatchTaskGuard, forward_events};
use crate::error::{Error, Result};
use crate::path;
use crate::servers::Servers;
use crate::tree::{
    CreateMode, Op, SessionState, Tree, Version, Versioned, validate_create, validate_delete,
    validate_ops, validate_set,
};
use crate::watch::{self, Watch};

/// How long [`ZkTree::close`] waits for the session's end to be sent. If it cannot be, the session ends by its
/// timeout.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// The waits between attempts to connect or to watch: a restarting server's port is back within some hundred milliseconds, an outage
/// that ends is noticed within the longest, and a server that comes back is not drowned by all clients at once.
const RETRY: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// How to speak to ZooKeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long one call waits for its answer, and [`ZkTree::connect`] for its session. Default 5 s.
    pub timeout: Duration,
    /// How long the session outlives the connection, and with it the ephemeral nodes. The server has the last
    /// word (2 to 20 of its ticks). Default 10 s: a machine under load pauses for seconds at times.
    pub session_timeout: Duration,
    /// How long after the connection was lost calls still wait for it to come back. Later they fail at once.
    /// Default 800 ms, so that an API can say 503 within a second.
    pub connected_wait: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            session_timeout: Duration::from_secs(10),
            connected_wait: Duration::from_millis(800),
        }
    }
}

/// A tree in ZooKeeper, over one session at a time. A clone shares it; when the last clone and the last of its
/// watches are gone, the session is closed.
#[derive(Clone)]
pub struct ZkTree {
    inner: Arc<Inner>,
}

impl fmt::Debug for ZkTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkTree")
            .field("servers", &self.inner.client.servers)
            .finish_non_exhaustive()
    }
}

struct Inner {
    client: Arc<ZkClient>,
    abort: AbortHandle,
    // Taken by `close`, which waits for the task to be gone.
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl ZkTree {
    /// Opens a session with one of `servers` (`host:port,…`), for programs that cannot begin without.
    ///
    /// # Errors
    /// [`Error::InvalidServers`]; [`Error::Connect`] if there is no session within `options.timeout`.
    pub async fn connect(servers: &str, options: ConnectOptions) -> Result<Self> {
        let tree = Self::supervised(servers.parse::<Servers>()?.as_str(), options);
        let mut connection = tree.inner.client.connection.subscribe();
        let up = timeout(
            options.timeout,
            connection.wait_for(|connection| connection.client().is_some()),
        )
        .await
        .is_ok();
        if up {
            return Ok(tree);
        }
        let source = tree.inner.client.disconnect_reason().into();
        Err(Error::Connect {
            servers: servers.to_owned(),
            source,
        })
    }

    /// The same for programs that must start without ZooKeeper: returns at once and connects in the
    /// background for as long as it takes.
    #[must_use]
    pub fn connect_lazy(servers: &Servers, options: ConnectOptions) -> Self {
        Self::supervised(servers.as_str(), options)
    }

    /// The number of the session in use, as the server's own log and `dump` call it; `None` while there is none.
    #[must_use]
    pub fn session_id(&self) -> Option<i64> {
        match &*self.inner.client.connection.borrow() {
            ConnectionState::Connected(client) => Some(client.session_id().0),
            ConnectionState::Disconnected { .. } => None,
        }
    }

    /// Closes the session, so that its ephemeral nodes go now and not when it times out. Calls made after it
    /// are [`Error::Unavailable`].
    pub async fn close(&self) {
        let supervisor = self
            .inner
            .supervisor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(supervisor) = supervisor else { return };
        supervisor.abort();
        // It can only end by this abort; a panic in it was reported by the runtime.
        let _aborted = supervisor.await;
        let connection = self
            .inner
            .client
            .connection
            .send_replace(ConnectionState::disconnected("closed by this process"));
        self.inner
            .client
            .session
            .send_replace(SessionState::Disconnected);
        if let ConnectionState::Connected(client) = connection {
            let mut states = client.state_watcher();
            drop(client);
            let closed = async { while !states.changed().await.is_terminated() {} };
            if timeout(CLOSE_WAIT, closed).await.is_err() {
                debug!("the session could not be closed in time; it ends by its timeout");
            }
        }
    }

    fn supervised(servers: &str, options: ConnectOptions) -> Self {
        let client = Arc::new(ZkClient {
            servers: servers.to_owned(),
            options,
            connection: Sender::new(ConnectionState::disconnected("not connected yet")),
            session: Sender::new(SessionState::Disconnected),
        });
        let supervisor = tokio::spawn(supervise(client.clone()));
        let abort = supervisor.abort_handle();
        Self {
            inner: Arc::new(Inner {
                client,
                abort,
                supervisor: Mutex::new(Some(supervisor)),
            }),
        }
    }
}

#[async_trait]
impl Tree for ZkTree {
    async fn get(&self, path: &str) -> Result<Versioned> {
        path::validate(path)?;
        let ask = |client: Arc<zk::Client>| async move {
            let (data, stat) = client.get_data(path).await?;
            Ok(versioned(&client, data, stat))
        };
        self.inner.client.read("get", path, ask).await
    }

    async fn exists(&self, path: &str) -> Result<Option<Version>> {
        path::validate(path)?;
        let ask = |client: Arc<zk::Client>| async move { client.check_stat(path).await };
        let stat = self.inner.client.read("look for", path, ask).await?;
        Ok(stat.map(|stat| Version(stat.version)))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>> {
        path::validate(path)?;
        let ask = |client: Arc<zk::Client>| async move { client.list_children(path).await };
        let mut names = self.inner.client.read("list", path, ask).await?;
        names.sort_unstable();
        Ok(names)
    }

    async fn get_many(&self, paths: &[String]) -> Vec<Result<Versioned>> {
        self.inner.client.load(paths).await
    }

    async fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<Version> {
        validate_create(path, data)?;
        let ask = |client: Arc<zk::Client>| async move {
            client.create(path, data, &options_of(mode)).await
        };
        let (stat, _) = self.inner.client.change("create", path, ask).await?;
        Ok(Version(stat.version))
    }

    async fn set(&self, path: &str, data: &[u8], expected: Option<Version>) -> Result<Version> {
        validate_set(path, data)?;
        let expected = expected.map(|Version(version)| version);
        let ask =
            |client: Arc<zk::Client>| async move { client.set_data(path, data, expected).await };
        let stat = self.inner.client.change("set", path, ask).await?;
        Ok(Version(stat.version))
    }

    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<()> {
        validate_delete(path)?;
        let expected = expected.map(|Version(version)| version);
        let ask = |client: Arc<zk::Client>| async move { client.delete(path, expected).await };
        self.inner.client.change("delete", path, ask).await
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<()> {
        validate_ops(&ops)?;
        self.inner.client.commit(&ops).await
    }

    async fn watch(&self, path: &str) -> Result<Watch> {
        path::validate(path)?;
        let watcher = self.inner.client.set_watch(path).await?;
        let (sender, watch) = watch::channel();
        let task = tokio::spawn(forward_events(
            self.inner.client.clone(),
            path.to_owned(),
            watcher,
            sender,
        ))
        .abort_handle();
        Ok(watch.guarded_by(WatchTaskGuard {
            task,
            _tree: self.inner.clone(),
        }))
    }

    fn session(&self) -> Receiver<SessionState> {
        self.inner.client.session.subscribe()
    }
}
