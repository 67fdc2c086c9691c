//! The tree in ZooKeeper. This is the only file of the workspace that names the client library.
//!
//! ```text
//!             ┌──────────── supervisor (one task per tree) ───────────┐
//!             │  connect ──► follow the session ──► dead: connect anew │
//!             └───────┬──────────────────────────────────────────────-┘
//!                     ▼ publishes
//!   Link { client | down since, why }          SessionState
//!         ▲                 ▲                        ▲
//!      each call        each watch's pump         whoever owns
//!   (fails fast while   (asks for its watch      ephemeral nodes
//!    it is down)         again, says Lost)
//! ```
//!
//! What a call does:
//! 1. take the client from the link; if it is down, wait for at most `connected_wait` from when it went down;
//! 2. send the request and wait for the answer, the loss of the connection, or the deadline;
//! 3. an answer is returned. Without one, a read starts over within its deadline; a change says
//!    [`Error::UnknownOutcome`]. (The library keeps a request that found the connection gone and sends it on
//!    the next one, ahead of any later read on this tree: a re-read sees what became of it.)
//!
//! Two things about the library (0.11) shape this file. It ends a session for good in the states `Expired`,
//! `Closed` and `AuthFailed`; the supervisor then builds a new client. And it does not set its persistent watches
//! anew on another connection (`WatchManager::resend_watches` never gets to the lists that hold them), so the
//! pumps do, on each connection. What happened in between nobody tells (ZOOKEEPER-4698): hence [`Event::Lost`].

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::watch::{Receiver, Sender};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};
use zookeeper_client as zk;

use crate::error::{Cause, Error, Result};
use crate::path;
use crate::retry::Pauses;
use crate::servers::Servers;
use crate::tree::{
    Kind, Op, SessionState, Tree, Version, Versioned, validate_create, validate_delete,
    validate_ops, validate_set,
};
use crate::watch::{self, Event, Watch, WatchSender};

/// How many reads [`ZkTree::get_many`] has under way at once. A round trip on one machine is some 100 µs and a
/// read costs the server some 10 µs, so a few dozen would keep it busy; the rest is for a network in between.
const READS_IN_FLIGHT: usize = 256;

/// How long [`ZkTree::close`] waits for the session's end to be sent. If it cannot be, the session ends by its
/// timeout.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

/// Everybody may read and write: access to ZooKeeper is limited by the network it is in.
const OPEN_TO_ALL: zk::Acls<'static> = zk::Acls::anyone_all();

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
            .field("servers", &self.inner.hub.servers)
            .finish_non_exhaustive()
    }
}

struct Inner {
    hub: Arc<Hub>,
    abort: AbortHandle,
    // Taken by `close`, which waits for the task to be gone.
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

/// What the supervisor publishes and everybody else looks at.
struct Hub {
    servers: String,
    options: ConnectOptions,
    link: Sender<Link>,
    session: Sender<SessionState>,
}

#[derive(Clone)]
enum Link {
    Up(Arc<zk::Client>),
    /// The client may be there and be looking for a server, or there is none.
    Down {
        since: Instant,
        why: Arc<str>,
    },
}

impl Link {
    fn down(why: impl Into<Arc<str>>) -> Self {
        Self::Down {
            since: Instant::now(),
            why: why.into(),
        }
    }

    /// The client if it can be asked right now. The link may lag behind the client by a moment.
    fn client(&self) -> Option<&Arc<zk::Client>> {
        match self {
            Self::Up(client) if client.state() == zk::SessionState::SyncConnected => Some(client),
            _ => None,
        }
    }
}

impl ZkTree {
    /// Opens a session with one of `servers` (`host:port,…`), for programs that cannot begin without.
    ///
    /// # Errors
    /// [`Error::InvalidServers`]; [`Error::Connect`] if there is no session within `options.timeout`.
    pub async fn connect(servers: &str, options: ConnectOptions) -> Result<Self> {
        let tree = Self::supervised(servers.parse::<Servers>()?.as_str(), options);
        let mut link = tree.inner.hub.link.subscribe();
        let up = timeout(
            options.timeout,
            link.wait_for(|link| link.client().is_some()),
        )
        .await
        .is_ok();
        if up {
            return Ok(tree);
        }
        let source = tree.inner.hub.trouble().into();
        Err(Error::Connect {
            servers: servers.to_owned(),
            source,
        })
    }

    /// The same for programs that must start without ZooKeeper: returns at once and connects in the
    /// background for as long as it takes. A malformed `servers` is reported by every call; parse it as
    /// [`Servers`] first to refuse it at the start.
    #[must_use]
    pub fn connect_lazy(servers: &str, options: ConnectOptions) -> Self {
        Self::supervised(servers, options)
    }

    /// The number of the session in use, as the server's own log and `dump` call it; `None` while there is none.
    #[must_use]
    pub fn session_id(&self) -> Option<i64> {
        match &*self.inner.hub.link.borrow() {
            Link::Up(client) => Some(client.session_id().0),
            Link::Down { .. } => None,
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
        let link = self
            .inner
            .hub
            .link
            .send_replace(Link::down("closed by this process"));
        self.inner
            .hub
            .session
            .send_replace(SessionState::Disconnected);
        if let Link::Up(client) = link {
            let mut states = client.state_watcher();
            drop(client);
            let closed = async { while !states.changed().await.is_terminated() {} };
            if timeout(CLOSE_WAIT, closed).await.is_err() {
                debug!("the session could not be closed in time; it ends by its timeout");
            }
        }
    }

    fn supervised(servers: &str, options: ConnectOptions) -> Self {
        let hub = Arc::new(Hub {
            servers: servers.to_owned(),
            options,
            link: Sender::new(Link::down("not connected yet")),
            session: Sender::new(SessionState::Disconnected),
        });
        let supervisor = tokio::spawn(supervise(hub.clone()));
        let abort = supervisor.abort_handle();
        Self {
            inner: Arc::new(Inner {
                hub,
                abort,
                supervisor: Mutex::new(Some(supervisor)),
            }),
        }
    }
}

// The supervisor.

async fn supervise(hub: Arc<Hub>) {
    loop {
        let client = Arc::new(hub.establish().await);
        let end = hub.follow(&client).await;
        warn!(servers = %hub.servers, session = %client.session_id(), state = %end, "the session ended, opening a new one");
        hub.publish(
            Link::down(format!("the session ended ({end})")),
            SessionState::Expired,
        );
    }
}

impl Hub {
    async fn establish(&self) -> zk::Client {
        let mut pauses = Pauses::default();
        let mut failures = 0_u32;
        loop {
            let connector = zk::Client::connector()
                .with_session_timeout(self.options.session_timeout)
                .with_fail_eagerly();
            // The library bounds each attempt by the session timeout; twice that is a bound on its word.
            let attempt = timeout(
                self.options.session_timeout * 2,
                connector.connect(&self.servers),
            )
            .await;
            let why = match attempt {
                Ok(Ok(client)) => {
                    info!(servers = %self.servers, session = %client.session_id(), failures, "connected to ZooKeeper");
                    return client;
                }
                Ok(Err(error)) => error.to_string(),
                Err(elapsed) => elapsed.to_string(),
            };
            if failures == 0 {
                warn!(servers = %self.servers, error = %why, "cannot connect to ZooKeeper, trying on");
            } else {
                debug!(servers = %self.servers, error = %why, failures, "cannot connect to ZooKeeper");
            }
            failures = failures.saturating_add(1);
            self.explain(&why);
            sleep(pauses.next()).await;
        }
    }

    /// Publishes the states of the client's session until a final one, and answers that.
    async fn follow(&self, client: &Arc<zk::Client>) -> zk::SessionState {
        let mut states = client.state_watcher();
        let mut state = states.state();
        while !state.is_terminated() {
            if state == zk::SessionState::SyncConnected {
                self.publish(Link::Up(client.clone()), SessionState::Connected);
            } else {
                warn!(servers = %self.servers, session = %client.session_id(), "lost the connection to ZooKeeper");
                self.publish(
                    Link::down("the connection was lost"),
                    SessionState::Disconnected,
                );
            }
            state = states.changed().await;
        }
        state
    }

    // The link goes first: whoever is woken by the session's state finds it in place. Both always notify, also
    // of an unchanged value, because a short disconnection may have been skipped.
    fn publish(&self, link: Link, state: SessionState) {
        self.link.send_replace(link);
        self.session.send_replace(state);
    }

    /// Replaces the reason for being down, and leaves the time at which that began.
    fn explain(&self, why: &str) {
        self.link.send_modify(|link| {
            if let Link::Down { why: current, .. } = link {
                *current = why.into();
            }
        });
    }

    fn trouble(&self) -> String {
        match &*self.link.borrow() {
            Link::Down { why, .. } => {
                format!("no connection to ZooKeeper at {}: {why}", self.servers)
            }
            Link::Up(_) => format!("no connection to ZooKeeper at {}", self.servers),
        }
    }

    /// The client, as soon as it is connected, but not for longer than `connected_wait` after it was not.
    async fn connected(&self, act: &'static str, path: &str) -> Result<Arc<zk::Client>> {
        let mut link = self.link.subscribe();
        let since = match &*link.borrow() {
            Link::Down { since, .. } => *since,
            Link::Up(_) => Instant::now(),
        };
        let up = link.wait_for(|link| link.client().is_some());
        if let Ok(Ok(link)) = timeout_at(since + self.options.connected_wait, up).await
            && let Some(client) = link.client()
        {
            return Ok(client.clone());
        }
        Err(Error::Unavailable {
            act,
            path: path.to_owned(),
            source: self.trouble().into(),
        })
    }

    /// Asks until there is an answer or the deadline passes.
    async fn read<T, F>(
        &self,
        act: &'static str,
        path: &str,
        ask: impl Fn(Arc<zk::Client>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, zk::Error>>,
    {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            let client = self.connected(act, path).await?;
            let source = match answer(&client, deadline, ask(client.clone())).await {
                Ok(value) => return Ok(value),
                Err(Ended::Failed(error)) => match judge(act, path, error) {
                    Verdict::Answer(error) => return Err(error),
                    Verdict::Odd(source) => {
                        return Err(Error::Refused {
                            act,
                            path: path.to_owned(),
                            source,
                        });
                    }
                    Verdict::Lost(source) => source,
                },
                Err(Ended::Lost(source)) => source,
            };
            if Instant::now() >= deadline {
                return Err(Error::Unavailable {
                    act,
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }

    /// Asks once.
    async fn change<T, F>(
        &self,
        act: &'static str,
        path: &str,
        ask: impl FnOnce(Arc<zk::Client>) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T, zk::Error>>,
    {
        let client = self.connected(act, path).await?;
        let deadline = Instant::now() + self.options.timeout;
        match answer(&client, deadline, ask(client.clone())).await {
            Ok(value) => Ok(value),
            Err(Ended::Failed(error)) => Err(judge(act, path, error).of_a_change(act, path)),
            Err(Ended::Lost(source)) => Err(Error::UnknownOutcome {
                act,
                path: path.to_owned(),
                source,
            }),
        }
    }
}

// One request and its answer.

enum Ended<E> {
    /// The library answered with an error.
    Failed(E),
    /// There was no answer.
    Lost(Cause),
}

/// Waits for the answer to a request, the loss of the connection, or the deadline. An answer that is there is
/// preferred over the others. The library takes a dropped request as it is: sent, with nobody waiting.
async fn answer<T, E>(
    client: &zk::Client,
    deadline: Instant,
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, Ended<E>> {
    tokio::select! {
        biased;
        result = request => result.map_err(Ended::Failed),
        state = disconnected(client) => Err(Ended::Lost(format!("the session is now {state}").into())),
        () = sleep_until(deadline) => Err(Ended::Lost("no answer came in time".into())),
    }
}

async fn disconnected(client: &zk::Client) -> zk::SessionState {
    let mut states = client.state_watcher();
    let mut state = states.state();
    while state == zk::SessionState::SyncConnected {
        state = states.changed().await;
    }
    state
}

enum Verdict {
    /// The service answered, or refused, and nothing was changed.
    Answer(Error),
    /// The connection ended before an answer.
    Lost(Cause),
    /// Something that should not be, and that says nothing about what was changed.
    Odd(Cause),
}

impl Verdict {
    fn of_a_change(self, act: &'static str, path: &str) -> Error {
        match self {
            Self::Answer(error) => error,
            Self::Lost(source) | Self::Odd(source) => Error::UnknownOutcome {
                act,
                path: path.to_owned(),
                source,
            },
        }
    }
}

fn judge(act: &'static str, path: &str, error: zk::Error) -> Verdict {
    use zk::Error as E;
    let path = path.to_owned();
    match error {
        E::NoNode => Verdict::Answer(Error::NotFound { act, path }),
        E::NodeExists => Verdict::Answer(Error::AlreadyExists { path }),
        E::BadVersion => Verdict::Answer(Error::BadVersion { act, path }),
        E::NotEmpty => Verdict::Answer(Error::NotEmpty { path }),
        E::NoChildrenForEphemerals => Verdict::Answer(Error::EphemeralParent { path }),
        // The server is overloaded and did not take the request.
        E::Throttled => Verdict::Answer(Error::Unavailable {
            act,
            path,
            source: error.into(),
        }),
        E::NoAuth
        | E::InvalidAcl
        | E::QuotaExceeded
        | E::MarshallingError
        | E::Unimplemented
        | E::NotReadOnly
        | E::BadArguments(_) => Verdict::Answer(Error::Refused {
            act,
            path,
            source: error.into(),
        }),
        // `Custom` is what a socket says. In all of these the client has left the connected state already.
        E::ConnectionLoss
        | E::SessionExpired
        | E::SessionMoved
        | E::ClientClosed
        | E::AuthFailed
        | E::Timeout
        | E::NoHosts
        | E::Custom(_) => Verdict::Lost(error.into()),
        other => Verdict::Odd(other.into()),
    }
}

fn versioned(client: &zk::Client, data: Vec<u8>, stat: zk::Stat) -> Versioned {
    Versioned {
        data: Bytes::from(data),
        version: Version(stat.version),
        created_ms: u64::try_from(stat.ctime).unwrap_or(0),
        modified_ms: u64::try_from(stat.mtime).unwrap_or(0),
        ephemeral: stat.ephemeral_owner != 0,
        mine: stat.ephemeral_owner != 0 && stat.ephemeral_owner == client.session_id().0,
    }
}

fn options_of(kind: Kind) -> zk::CreateOptions<'static> {
    match kind {
        Kind::Persistent => zk::CreateMode::Persistent.with_acls(OPEN_TO_ALL),
        Kind::Ephemeral => zk::CreateMode::Ephemeral.with_acls(OPEN_TO_ALL),
    }
}

// Many reads.

/// What [`Tree::get_many`] has and has not yet.
struct Loading<'a> {
    paths: &'a [String],
    results: Vec<Option<Result<Versioned>>>,
}

impl<'a> Loading<'a> {
    fn new(paths: &'a [String]) -> Self {
        let results = paths
            .iter()
            .map(|path| path::validate(path).err().map(Err))
            .collect();
        Self { paths, results }
    }

    fn missing(&self) -> Vec<usize> {
        (0..self.paths.len())
            .filter(|&index| self.results[index].is_none())
            .collect()
    }

    /// Asks for all that is missing, over this connection, and takes what comes. Each answer has `patience` from
    /// the one before. The error is why it ended early.
    async fn pass(&mut self, client: &zk::Client, patience: Duration) -> Result<(), Cause> {
        let paths = self.paths;
        let requests = self.missing().into_iter().map(|index| {
            // The library sends a request when its future is made, which is when it gets its place in the window.
            let request = client.get_data(&paths[index]);
            async move { (index, request.await) }
        });
        let mut answers = pin!(stream::iter(requests).buffered(READS_IN_FLIGHT));
        let mut lost = pin!(disconnected(client));
        let mut patience_ends = pin!(sleep(patience));
        loop {
            let (index, answer) = tokio::select! {
                biased;
                next = answers.next() => match next {
                    Some(answer) => answer,
                    None => return Ok(()),
                },
                state = &mut lost => return Err(format!("the session is now {state}").into()),
                () = &mut patience_ends => return Err("no answer came in time".into()),
            };
            let path = &paths[index];
            let result = match answer {
                Ok((data, stat)) => Ok(versioned(client, data, stat)),
                Err(error) => match judge("get", path, error) {
                    Verdict::Answer(error) => Err(error),
                    Verdict::Odd(source) => Err(Error::Refused {
                        act: "get",
                        path: path.clone(),
                        source,
                    }),
                    Verdict::Lost(source) => return Err(source),
                },
            };
            self.results[index] = Some(result);
            patience_ends.as_mut().reset(Instant::now() + patience);
        }
    }

    /// The results; what is missing failed for this reason.
    fn finish(self, why: &str) -> Vec<Result<Versioned>> {
        let unavailable = |path: &String| Error::Unavailable {
            act: "get",
            path: path.clone(),
            source: why.to_owned().into(),
        };
        let pairs = self.results.into_iter().zip(self.paths);
        pairs
            .map(|(result, path)| result.unwrap_or_else(|| Err(unavailable(path))))
            .collect()
    }
}

impl Hub {
    /// Passes over what is missing until nothing is, or until one ends without progress and without time left.
    async fn load(&self, paths: &[String]) -> Vec<Result<Versioned>> {
        let mut loading = Loading::new(paths);
        let mut deadline = Instant::now() + self.options.timeout;
        loop {
            let missing = loading.missing();
            let Some(&first) = missing.first() else {
                return loading.finish("");
            };
            let client = match self.connected("get", &paths[first]).await {
                Ok(client) => client,
                Err(_) => return loading.finish(&self.trouble()),
            };
            let Err(why) = loading.pass(&client, self.options.timeout).await else {
                continue;
            };
            if loading.missing().len() < missing.len() {
                deadline = Instant::now() + self.options.timeout;
            } else if Instant::now() >= deadline {
                return loading.finish(&why.to_string());
            }
        }
    }
}

// Watches.

/// Ends a watch's pump when the watch is dropped, and keeps the tree going until then.
struct PumpGuard {
    pump: AbortHandle,
    _tree: Arc<Inner>,
}

impl Drop for PumpGuard {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Carries events from the library's unbounded queue to the reader's bounded one, over any number of connections.
async fn pump(
    hub: Arc<Hub>,
    path: String,
    mut watcher: zk::PersistentWatcher,
    sender: WatchSender,
) {
    loop {
        pump_connection(&mut watcher, &sender).await;
        // The old watcher goes when the new one is in place, so the library has nothing to take back.
        watcher = hub.watch_again(&path).await;
        sender.send(Event::Lost);
    }
}

/// Returns when the watch must be set anew: on another connection, or in another session.
async fn pump_connection(watcher: &mut zk::PersistentWatcher, sender: &WatchSender) {
    loop {
        let event = watcher.changed().await;
        let path = event.path;
        match (event.event_type, event.session_state) {
            (zk::EventType::NodeCreated, _) => sender.send(Event::Created { path }),
            (zk::EventType::NodeDataChanged, _) => sender.send(Event::Changed { path }),
            (zk::EventType::NodeDeleted, _) => sender.send(Event::Deleted { path }),
            // Recursive watches have none: the child itself is told of.
            (zk::EventType::NodeChildrenChanged, _) => {}
            (zk::EventType::Session, zk::SessionState::SyncConnected) => return,
            (zk::EventType::Session, state) if state.is_terminated() => return,
            (zk::EventType::Session, _) => {}
        }
    }
}

impl Hub {
    /// Sets the watch on the next connection, however long it takes until there is one.
    async fn watch_again(&self, path: &str) -> zk::PersistentWatcher {
        let mut pauses = Pauses::default();
        let mut link = self.link.subscribe();
        loop {
            if link.wait_for(|link| link.client().is_some()).await.is_err() {
                // The hub is ours, so its sender is there; waiting is the answer to what cannot be.
                std::future::pending::<()>().await;
            }
            match self.set_watch(path).await {
                Ok(watcher) => return watcher,
                Err(error) => {
                    warn!(
                        path,
                        error = &error as &dyn std::error::Error,
                        "cannot watch again, trying on"
                    );
                    sleep(pauses.next()).await;
                }
            }
        }
    }

    async fn set_watch(&self, path: &str) -> Result<zk::PersistentWatcher> {
        let mode = zk::AddWatchMode::PersistentRecursive;
        self.read("watch", path, |client| async move {
            client.watch(path, mode).await
        })
        .await
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
        self.inner.hub.read("get", path, ask).await
    }

    async fn exists(&self, path: &str) -> Result<Option<Version>> {
        path::validate(path)?;
        let ask = |client: Arc<zk::Client>| async move { client.check_stat(path).await };
        let stat = self.inner.hub.read("look for", path, ask).await?;
        Ok(stat.map(|stat| Version(stat.version)))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>> {
        path::validate(path)?;
        let ask = |client: Arc<zk::Client>| async move { client.list_children(path).await };
        let mut names = self.inner.hub.read("list", path, ask).await?;
        names.sort_unstable();
        Ok(names)
    }

    async fn get_many(&self, paths: &[String]) -> Vec<Result<Versioned>> {
        self.inner.hub.load(paths).await
    }

    async fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<Version> {
        validate_create(path, data)?;
        let ask = |client: Arc<zk::Client>| async move {
            client.create(path, data, &options_of(kind)).await
        };
        let (stat, _) = self.inner.hub.change("create", path, ask).await?;
        Ok(Version(stat.version))
    }

    async fn set(&self, path: &str, data: &[u8], expected: Option<Version>) -> Result<Version> {
        validate_set(path, data)?;
        let expected = expected.map(|Version(version)| version);
        let ask =
            |client: Arc<zk::Client>| async move { client.set_data(path, data, expected).await };
        let stat = self.inner.hub.change("set", path, ask).await?;
        Ok(Version(stat.version))
    }

    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<()> {
        validate_delete(path)?;
        let expected = expected.map(|Version(version)| version);
        let ask = |client: Arc<zk::Client>| async move { client.delete(path, expected).await };
        self.inner.hub.change("delete", path, ask).await
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<()> {
        validate_ops(&ops)?;
        self.inner.hub.commit(&ops).await
    }

    async fn watch(&self, path: &str) -> Result<Watch> {
        path::validate(path)?;
        let watcher = self.inner.hub.set_watch(path).await?;
        let (sender, watch) = watch::channel();
        let pump = tokio::spawn(pump(
            self.inner.hub.clone(),
            path.to_owned(),
            watcher,
            sender,
        ))
        .abort_handle();
        Ok(watch.guarded_by(PumpGuard {
            pump,
            _tree: self.inner.clone(),
        }))
    }

    fn session(&self) -> Receiver<SessionState> {
        self.inner.hub.session.subscribe()
    }
}

// Transactions.

impl Hub {
    async fn commit(&self, ops: &[Op]) -> Result<()> {
        let (act, path) = match ops {
            [] => return Ok(()),
            [op] => (op.act(), op.path()),
            [op, ..] => ("commit", op.path()),
        };
        let client = self.connected(act, path).await?;
        let mut writer = client.new_multi_writer();
        for op in ops {
            add(&mut writer, op).map_err(|error| {
                judge(op.act(), op.path(), error).of_a_change(op.act(), op.path())
            })?;
        }
        let deadline = Instant::now() + self.options.timeout;
        match answer(&client, deadline, writer.commit()).await {
            Ok(_) => Ok(()),
            Err(Ended::Failed(zk::MultiWriteError::OperationFailed { index, source })) => {
                let (act, path) = ops
                    .get(index)
                    .map_or((act, path), |op| (op.act(), op.path()));
                Err(judge(act, path, source).of_a_change(act, path))
            }
            Err(Ended::Failed(zk::MultiWriteError::RequestFailed { source })) => {
                Err(judge(act, path, source).of_a_change(act, path))
            }
            Err(Ended::Lost(source)) => Err(Error::UnknownOutcome {
                act,
                path: path.to_owned(),
                source,
            }),
        }
    }
}

fn add(writer: &mut zk::MultiWriter<'_>, op: &Op) -> Result<(), zk::Error> {
    let number = |expected: &Option<Version>| expected.map(|Version(version)| version);
    match op {
        Op::Create { path, data, kind } => writer.add_create(path, data, &options_of(*kind)),
        Op::Set {
            path,
            data,
            expected,
        } => writer.add_set_data(path, data, number(expected)),
        Op::Delete { path, expected } => writer.add_delete(path, number(expected)),
        Op::Check { path, expected } => writer.add_check_version(path, expected.0),
    }
}
