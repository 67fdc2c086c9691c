//! In-memory fake of the tree, for tests. Sessions, connections and answers can be made to fail.
//!
//! ```text
//!   MemoryTree ─ session 1 ─┐
//!   MemoryTree ─ session 1 ─┤ (a clone is the same session)      Store: nodes, watches
//!   MemoryTree ─ session 2 ─┘ (another_session)
//!
//!   connected ──disconnect──► disconnected ──reconnect──► connected     watches: Lost
//!       └─────────expire──────────┴──► expired ─► new session           ephemerals gone, watches: Lost
//! ```
//!
//! It answers what ZooKeeper answers; `tests/conformance.rs` holds both to that.

mod store;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch::Receiver;

use self::store::{SessionKey, SharedStore};
use crate::error::{Error, Result};
use crate::path;
use crate::tree::{
    CreateMode, Op, SessionState, Tree, Version, Versioned, validate_create, validate_delete,
    validate_ops, validate_set,
};
use crate::watch::{self, Watch};

/// How the answer to a change gets lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostAnswer {
    /// The change never arrived.
    BeforeChange,
    /// The change was made; only the answer was lost.
    AfterChange,
}

/// A tree in memory. A clone shares the data and the session; when the last clone and the last of its
/// watches are gone, the session ends and its ephemeral nodes go.
#[derive(Clone)]
pub struct MemoryTree {
    session: Arc<Session>,
}

impl fmt::Debug for MemoryTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTree")
            .field("session", &self.session.key)
            .finish_non_exhaustive()
    }
}

struct Session {
    store: SharedStore,
    key: SessionKey,
    state: Receiver<SessionState>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.store.lock().close_session(self.key);
    }
}

impl Default for MemoryTree {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTree {
    /// An empty tree and a first session with it.
    #[must_use]
    pub fn new() -> Self {
        Self::on(SharedStore::default())
    }

    /// The same data as another process would see it: its own session, its own ephemeral nodes and faults.
    #[must_use]
    pub fn another_session(&self) -> Self {
        Self::on(self.session.store.clone())
    }

    /// Takes the connection of this session away: calls are [`Error::Unavailable`], watches see nothing.
    /// The session lives on.
    pub fn disconnect(&self) {
        self.session.store.lock().disconnect(self.session.key);
    }

    /// Gives the connection back. Watches say [`Event::Lost`](crate::Event::Lost). After an
    /// [`expire`](Self::expire) without a connection this is when the new session begins.
    pub fn reconnect(&self) {
        self.session.store.lock().reconnect(self.session.key);
    }

    /// Ends the session: its ephemeral nodes go. If there is a connection a new session begins at once.
    pub fn expire(&self) {
        self.session.store.lock().expire(self.session.key);
    }

    /// Makes the next change of this session answer [`Error::UnknownOutcome`].
    pub fn lose_next_answer(&self, how: LostAnswer) {
        self.session
            .store
            .lock()
            .lose_next_answer(self.session.key, how);
    }

    fn on(store: SharedStore) -> Self {
        let (key, state) = store.lock().open_session();
        Self {
            session: Arc::new(Session { store, key, state }),
        }
    }

    fn change<T>(&self, ops: &[Op], pick: impl FnOnce(Vec<Version>) -> T) -> Result<T> {
        let (act, path) = match ops {
            [] => return Ok(pick(Vec::new())),
            [op] => (op.act(), op.path()),
            [op, ..] => ("commit", op.path()),
        };
        let mut store = self.session.store.lock();
        store.check_connected(self.session.key, act, path)?;
        let lost = store.take_lost_answer(self.session.key);
        if lost == Some(LostAnswer::BeforeChange) {
            return Err(unknown_outcome(act, path));
        }
        let versions = store.commit(self.session.key, ops)?;
        match lost {
            Some(_) => Err(unknown_outcome(act, path)),
            None => Ok(pick(versions)),
        }
    }

    fn change_one(&self, op: Op) -> Result<Version> {
        // One step answers one version; a step without one answers 0, which its caller drops.
        self.change(&[op], |versions| {
            versions.first().copied().unwrap_or(Version(0))
        })
    }
}

fn unknown_outcome(act: &'static str, path: &str) -> Error {
    Error::UnknownOutcome {
        act,
        path: path.to_owned(),
        source: "the answer was taken away by the test".into(),
    }
}

#[async_trait]
impl Tree for MemoryTree {
    async fn get(&self, path: &str) -> Result<Versioned> {
        path::validate(path)?;
        let store = self.session.store.lock();
        store.check_connected(self.session.key, "get", path)?;
        store.get(self.session.key, path)
    }

    async fn exists(&self, path: &str) -> Result<Option<Version>> {
        path::validate(path)?;
        let store = self.session.store.lock();
        store.check_connected(self.session.key, "look for", path)?;
        Ok(store.version(path))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>> {
        path::validate(path)?;
        let store = self.session.store.lock();
        store.check_connected(self.session.key, "list", path)?;
        store.children(path)
    }

    async fn get_many(&self, paths: &[String]) -> Vec<Result<Versioned>> {
        let mut results = Vec::with_capacity(paths.len());
        for path in paths {
            results.push(self.get(path).await);
        }
        results
    }

    async fn create(&self, path: &str, data: &[u8], mode: CreateMode) -> Result<Version> {
        validate_create(path, data)?;
        self.change_one(Op::Create {
            path: path.to_owned(),
            data: data.to_vec().into(),
            mode,
        })
    }

    async fn set(&self, path: &str, data: &[u8], expected: Option<Version>) -> Result<Version> {
        validate_set(path, data)?;
        self.change_one(Op::Set {
            path: path.to_owned(),
            data: data.to_vec().into(),
            expected,
        })
    }

    async fn delete(&self, path: &str, expected: Option<Version>) -> Result<()> {
        validate_delete(path)?;
        self.change_one(Op::Delete {
            path: path.to_owned(),
            expected,
        })
        .map(|_| ())
    }

    async fn commit(&self, ops: Vec<Op>) -> Result<()> {
        validate_ops(&ops)?;
        self.change(&ops, |_| ())
    }

    async fn watch(&self, path: &str) -> Result<Watch> {
        path::validate(path)?;
        let mut store = self.session.store.lock();
        store.check_connected(self.session.key, "watch", path)?;
        let (sender, watch) = watch::channel();
        store.add_watch(self.session.key, path, sender);
        drop(store);
        // As with a real service, a watch keeps its session going.
        Ok(watch.guarded_by(self.session.clone()))
    }

    fn session(&self) -> Receiver<SessionState> {
        self.session.state.clone()
    }
}
