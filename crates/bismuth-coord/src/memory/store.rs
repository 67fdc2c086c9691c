//! State of one in-memory tree, shared by its sessions behind one lock: nodes, sessions, watches.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bismuth_base::now_ms;
use bytes::Bytes;
use tokio::sync::watch::{Receiver, Sender};

use super::LostAnswer;
use crate::error::{Error, Result};
use crate::path;
use crate::tree::{CreateMode, Op, SessionState, Version, Versioned};
use crate::watch::{Event, WatchSender};

/// A participant: it stays the same over the expiries of its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionKey(u64);

/// One session of a participant, as the owner of ephemeral nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner(u64);

#[derive(Clone, Default)]
pub(super) struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    pub(super) fn lock(&self) -> MutexGuard<'_, Store> {
        // A test that panicked while holding it has failed already; the others may look.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone)]
struct Node {
    data: Bytes,
    version: i32,
    created_ms: u64,
    modified_ms: u64,
    owner: Option<Owner>,
}

struct Session {
    owner: Owner,
    connected: bool,
    state: Sender<SessionState>,
    lost_answer: Option<LostAnswer>,
}

struct Watcher {
    session: SessionKey,
    top: String,
    sender: WatchSender,
}

pub(super) struct Store {
    nodes: BTreeMap<String, Node>,
    sessions: HashMap<SessionKey, Session>,
    watchers: Vec<Watcher>,
    last_id: u64,
}

impl Default for Store {
    fn default() -> Self {
        let root = Node {
            data: Bytes::new(),
            version: 0,
            created_ms: 0,
            modified_ms: 0,
            owner: None,
        };
        Self {
            nodes: BTreeMap::from([(path::ROOT.to_owned(), root)]),
            sessions: HashMap::new(),
            watchers: Vec::new(),
            last_id: 0,
        }
    }
}

// Sessions and their faults.
impl Store {
    pub(super) fn open_session(&mut self) -> (SessionKey, Receiver<SessionState>) {
        let key = SessionKey(self.next_id());
        let owner = Owner(self.next_id());
        let (state, receiver) = tokio::sync::watch::channel(SessionState::Connected);
        self.sessions.insert(
            key,
            Session {
                owner,
                connected: true,
                state,
                lost_answer: None,
            },
        );
        (key, receiver)
    }

    pub(super) fn close_session(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.remove(&key) {
            self.delete_owned_by(session.owner);
        }
        self.watchers.retain(|watcher| watcher.session != key);
    }

    pub(super) fn check_connected(
        &self,
        key: SessionKey,
        act: &'static str,
        path: &str,
    ) -> Result<()> {
        if self
            .sessions
            .get(&key)
            .is_some_and(|session| session.connected)
        {
            return Ok(());
        }
        Err(Error::Unavailable {
            act,
            path: path.to_owned(),
            source: "disconnected by the test".into(),
        })
    }

    pub(super) fn disconnect(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.connected = false;
            session.state.send_replace(SessionState::Disconnected);
        }
    }

    pub(super) fn reconnect(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.connected = true;
            session.state.send_replace(SessionState::Connected);
        }
        self.lose_events_of(key);
    }

    pub(super) fn expire(&mut self, key: SessionKey) {
        let next = Owner(self.next_id());
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let owner = std::mem::replace(&mut session.owner, next);
        session.state.send_replace(SessionState::Expired);
        let connected = session.connected;
        self.delete_owned_by(owner);
        if connected {
            self.reconnect(key);
        }
    }

    pub(super) fn lose_next_answer(&mut self, key: SessionKey, how: LostAnswer) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.lost_answer = Some(how);
        }
    }

    pub(super) fn take_lost_answer(&mut self, key: SessionKey) -> Option<LostAnswer> {
        self.sessions.get_mut(&key)?.lost_answer.take()
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn owner(&self, key: SessionKey) -> Option<Owner> {
        self.sessions.get(&key).map(|session| session.owner)
    }

    fn delete_owned_by(&mut self, owner: Owner) {
        let owned: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.owner == Some(owner))
            .map(|(path, _)| path.clone())
            .collect();
        for path in owned {
            self.nodes.remove(&path);
            self.publish(&Event::Deleted { path });
        }
    }
}

// Watches.
impl Store {
    pub(super) fn add_watch(&mut self, session: SessionKey, top: &str, sender: WatchSender) {
        self.watchers.retain(|watcher| !watcher.sender.is_closed());
        self.watchers.push(Watcher {
            session,
            top: top.to_owned(),
            sender,
        });
    }

    fn publish(&self, event: &Event) {
        let Some(path) = event.path() else { return };
        for watcher in &self.watchers {
            let connected = self
                .sessions
                .get(&watcher.session)
                .is_some_and(|session| session.connected);
            if connected && path::is_within(&watcher.top, path) {
                watcher.sender.send(event.clone());
            }
        }
    }

    fn lose_events_of(&self, key: SessionKey) {
        for watcher in self
            .watchers
            .iter()
            .filter(|watcher| watcher.session == key)
        {
            watcher.sender.send(Event::Lost);
        }
    }
}

// Reads.
impl Store {
    pub(super) fn get(&self, key: SessionKey, path: &str) -> Result<Versioned> {
        let node = self.node("get", path)?;
        Ok(Versioned {
            data: node.data.clone(),
            version: Version(node.version),
            created_ms: node.created_ms,
            modified_ms: node.modified_ms,
            ephemeral: node.owner.is_some(),
            mine: node.owner.is_some() && node.owner == self.owner(key),
        })
    }

    pub(super) fn version(&self, path: &str) -> Option<Version> {
        self.nodes.get(path).map(|node| Version(node.version))
    }

    pub(super) fn children(&self, path: &str) -> Result<Vec<String>> {
        self.node("list", path)?;
        let beginning = beginning_of_children(path);
        let below = self
            .below(&beginning)
            .filter_map(|child| child.strip_prefix(&beginning));
        Ok(below
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    fn node(&self, act: &'static str, path: &str) -> Result<&Node> {
        self.nodes.get(path).ok_or_else(|| Error::NotFound {
            act,
            path: path.to_owned(),
        })
    }

    fn below<'a>(&'a self, beginning: &'a str) -> impl Iterator<Item = &'a String> {
        self.nodes
            .range::<str, _>((Bound::Excluded(beginning), Bound::Unbounded))
            .map(|(path, _)| path)
            .take_while(move |path| path.starts_with(beginning))
    }
}

fn beginning_of_children(path: &str) -> String {
    path::join(path, "")
}

// Changes.
impl Store {
    /// Makes all changes or none, and answers the version that each step left behind.
    pub(super) fn commit(&mut self, key: SessionKey, ops: &[Op]) -> Result<Vec<Version>> {
        let mut done = Done::default();
        for op in ops {
            if let Err(error) = self.apply(key, op, &mut done) {
                self.undo(done);
                return Err(error);
            }
        }
        for event in &done.events {
            self.publish(event);
        }
        Ok(done.versions)
    }

    fn apply(&mut self, key: SessionKey, op: &Op, done: &mut Done) -> Result<()> {
        let version = match op {
            Op::Create { path, data, mode } => {
                let node = self.new_node(key, path, data, *mode)?;
                done.events.push(Event::Created { path: path.clone() });
                self.replace(path, Some(node), done);
                0
            }
            Op::Set {
                path,
                data,
                expected,
            } => {
                let mut node = self.expect_version("set", path, *expected)?.clone();
                node.version += 1;
                node.data = data.clone();
                node.modified_ms = now_ms();
                let version = node.version;
                done.events.push(Event::Changed { path: path.clone() });
                self.replace(path, Some(node), done);
                version
            }
            Op::Delete { path, expected } => {
                self.expect_version("delete", path, *expected)?;
                if self.below(&beginning_of_children(path)).next().is_some() {
                    return Err(Error::NotEmpty { path: path.clone() });
                }
                done.events.push(Event::Deleted { path: path.clone() });
                self.replace(path, None, done);
                0
            }
            Op::Check { path, expected } => {
                self.expect_version("check", path, Some(*expected))?.version
            }
        };
        done.versions.push(Version(version));
        Ok(())
    }

    fn new_node(
        &self,
        key: SessionKey,
        path: &str,
        data: &Bytes,
        mode: CreateMode,
    ) -> Result<Node> {
        // The root exists always, so whatever is created has a parent path.
        let parent = self.nodes.get(path::parent(path).unwrap_or(path::ROOT));
        let parent = parent.ok_or_else(|| Error::NotFound {
            act: "create",
            path: path.to_owned(),
        })?;
        if self.nodes.contains_key(path) {
            return Err(Error::AlreadyExists {
                path: path.to_owned(),
            });
        }
        if parent.owner.is_some() {
            return Err(Error::EphemeralParent {
                path: path.to_owned(),
            });
        }
        let owner = match mode {
            CreateMode::Persistent => None,
            CreateMode::Ephemeral => self.owner(key),
        };
        let now = now_ms();
        Ok(Node {
            data: data.clone(),
            version: 0,
            created_ms: now,
            modified_ms: now,
            owner,
        })
    }

    fn expect_version(
        &self,
        act: &'static str,
        path: &str,
        expected: Option<Version>,
    ) -> Result<&Node> {
        let node = self.node(act, path)?;
        match expected {
            Some(Version(expected)) if expected != node.version => Err(Error::BadVersion {
                act,
                path: path.to_owned(),
            }),
            _ => Ok(node),
        }
    }

    fn replace(&mut self, path: &str, node: Option<Node>, done: &mut Done) {
        let before = match node {
            Some(node) => self.nodes.insert(path.to_owned(), node),
            None => self.nodes.remove(path),
        };
        done.before.push((path.to_owned(), before));
    }

    fn undo(&mut self, done: Done) {
        for (path, before) in done.before.into_iter().rev() {
            match before {
                Some(node) => self.nodes.insert(path, node),
                None => self.nodes.remove(&path),
            };
        }
    }
}

/// What a transaction did so far, and how to take it back.
#[derive(Default)]
struct Done {
    versions: Vec<Version>,
    events: Vec<Event>,
    before: Vec<(String, Option<Node>)>,
}
