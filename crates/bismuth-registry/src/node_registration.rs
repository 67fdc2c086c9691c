//! Registers a worker node in ZooKeeper: keeps its ephemeral znode `/node/{ip}/alive` in place while its bismuthd runs.
//!
//! ```text
//!            ┌──── session lost, node deleted, time to look again ────┐
//!            ▼                                                         │
//!  look ─► nothing there ──────────────────► create ─► Registered ────┘
//!     ├──► ours of an earlier session ─────► replace ─► Registered
//!     │    (same epoch)
//!     ├──► somebody else's (other epoch) ──► ServedByOther, look again later
//!     └──► no answer ──────────────────────► Unregistered, look again soon
//! ```
//!
//! The epoch is written once to the node's state directory. So a restarted bismuthd recognises what it left behind
//! and need not wait for its old session to end, and a second machine with the same address is told apart.

use std::net::Ipv4Addr;
use std::time::Duration;

use bismuth_base::backoff::{Backoff, jittered};
use bismuth_coord::{CreateMode, Event, Op, Watch};
use bismuth_model::NodeFacts;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Registry;
use crate::codec::Record;
use crate::error::{Error, Result};
use crate::transaction::{Attempts, delete, encode};

/// How often the registration is checked without a watch event or session change: for changes that neither reported.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The waits between attempts while there is no answer, or another bismuthd is registered: soon enough after ZooKeeper is
/// back, and rare enough for a cluster of nodes that all wait.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// The waits after replacing a registration of our own epoch. Normally that happens once per session; when it
/// happens again and again, two processes share one state directory, and they shall not fight at full speed.
const REPLACED: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// Whether a node is registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// Not at the moment: ZooKeeper does not answer.
    Unregistered,
    /// Its `alive` znode exists and belongs to this session.
    Registered,
    /// Another bismuthd is registered for this node.
    ServedByOther {
        /// Its epoch.
        epoch: String,
    },
    /// The node is not in this environment (any more).
    NotProvisioned,
}

/// Keeps a node registered until it is dropped or [deregistered](Self::deregister).
///
/// When it is dropped, the znode stays until the session ends.
#[derive(Debug)]
pub struct NodeRegistration {
    registry: Registry,
    ip: Ipv4Addr,
    state: watch::Receiver<RegistrationState>,
    reconciler: JoinHandle<()>,
}

impl NodeRegistration {
    /// Whether the node is registered, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Deletes the znode at once, for an orderly shutdown.
    ///
    /// # Errors
    /// [`Error::Tree`]; then it goes with the session.
    pub async fn deregister(self) -> Result<()> {
        self.reconciler.abort();
        let path = self.registry.layout.alive(self.ip);
        let node = match self.registry.tree.get(&path).await {
            Ok(node) => node,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if !node.mine {
            return Ok(());
        }
        match self.registry.tree.delete(&path, Some(node.version)).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for NodeRegistration {
    fn drop(&mut self) {
        self.reconciler.abort();
    }
}

/// What it took to have the registration in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EnsureOutcome {
    /// It existed, or was created.
    InPlace,
    /// One of an earlier session was replaced.
    Replaced,
}

impl Registry {
    /// Registers that this process serves a node, and registers it again after a lost session. While ZooKeeper does
    /// not answer, the result is [unregistered](RegistrationState::Unregistered), and is registered as soon as possible.
    ///
    /// # Errors
    /// [`Error::NodeAlreadyServed`] if a bismuthd of another epoch has the node, [`Error::NodeUnknown`] if it is not
    /// provisioned, [`Error::Record`] if the facts do not fit or what is there cannot be read.
    pub async fn register_node(&self, ip: Ipv4Addr, facts: &NodeFacts) -> Result<NodeRegistration> {
        let first = match self.ensure_registered(ip, facts).await {
            Ok(_) => RegistrationState::Registered,
            Err(error) if error.is_unavailable() => {
                tracing::warn!(%ip, %error, "the node cannot be registered yet");
                RegistrationState::Unregistered
            }
            Err(error) => return Err(error),
        };
        let (sender, state) = watch::channel(first);
        let reconciler = RegistrationReconciler {
            registry: self.clone(),
            ip,
            facts: facts.clone(),
            state: sender,
        };
        let reconciler = tokio::spawn(reconciler.run());
        Ok(NodeRegistration {
            registry: self.clone(),
            ip,
            state,
            reconciler,
        })
    }

    /// Makes sure that the `alive` znode exists, belongs to this session, and holds these facts.
    async fn ensure_registered(&self, ip: Ipv4Addr, facts: &NodeFacts) -> Result<EnsureOutcome> {
        let path = self.layout.alive(ip);
        let data = encode(&path, facts)?;
        let create = Op::Create {
            path: path.clone(),
            data: data.clone(),
            mode: CreateMode::Ephemeral,
        };
        let mut attempts = Attempts::new(format!("register node {ip}"));
        loop {
            let (ops, outcome) = match self.tree.get(&path).await {
                Ok(node) if node.mine && node.data == data => return Ok(EnsureOutcome::InPlace),
                Ok(node) if node.mine => (
                    vec![delete(path.clone(), node.version), create.clone()],
                    EnsureOutcome::InPlace,
                ),
                Ok(node) => {
                    let theirs = NodeFacts::decode(&node.data).map_err(|source| Error::Record {
                        path: path.clone(),
                        source,
                    })?;
                    if theirs.epoch != facts.epoch {
                        return Err(Error::NodeAlreadyServed {
                            ip,
                            epoch: theirs.epoch,
                        });
                    }
                    (
                        vec![delete(path.clone(), node.version), create.clone()],
                        EnsureOutcome::Replaced,
                    )
                }
                Err(error) if error.is_not_found() => {
                    (vec![create.clone()], EnsureOutcome::InPlace)
                }
                Err(error) => return Err(error.into()),
            };
            match self.tree.commit(ops).await {
                Ok(()) => return Ok(outcome),
                // The node above is what is missing, unless ours was deleted between the read and the replacement.
                Err(error)
                    if error.is_not_found()
                        && self.tree.exists(&self.layout.node(ip)).await?.is_none() =>
                {
                    return Err(Error::NodeUnknown { ip });
                }
                // The next read shows the outcome.
                Err(error)
                    if error.is_unknown_outcome()
                        || error.is_conflict()
                        || error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
            attempts.next().await?;
        }
    }
}

/// The task behind a [`NodeRegistration`].
struct RegistrationReconciler {
    registry: Registry,
    ip: Ipv4Addr,
    facts: NodeFacts,
    state: watch::Sender<RegistrationState>,
}

impl RegistrationReconciler {
    async fn run(self) {
        let mut session = self.registry.tree.session();
        let mut hints = None;
        let (mut failures, mut replacements) = (RETRY.delays(), REPLACED.delays());
        loop {
            if hints.is_none() {
                hints = self
                    .registry
                    .tree
                    .watch(&self.registry.layout.alive(self.ip))
                    .await
                    .ok();
            }
            let wait = match self.reconcile().await {
                Some(EnsureOutcome::InPlace) => {
                    failures.reset();
                    replacements.reset();
                    jittered(RECHECK_INTERVAL)
                }
                Some(EnsureOutcome::Replaced) => {
                    failures.reset();
                    tokio::time::sleep(replacements.next_delay()).await;
                    continue;
                }
                None => failures.next_delay(),
            };
            tokio::select! {
                changed = session.changed() => {
                    if changed.is_err() {
                        // The tree is gone, and with it whatever could be registered.
                        return;
                    }
                }
                _ = next_hint(&mut hints) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Reads, registers again where needed, and publishes the state; `None` if the node is not registered now.
    async fn reconcile(&self) -> Option<EnsureOutcome> {
        let outcome = self.registry.ensure_registered(self.ip, &self.facts).await;
        let state = match &outcome {
            Ok(_) => RegistrationState::Registered,
            Err(Error::NodeAlreadyServed { epoch, .. }) => RegistrationState::ServedByOther {
                epoch: epoch.clone(),
            },
            Err(Error::NodeUnknown { .. }) => RegistrationState::NotProvisioned,
            Err(_) => RegistrationState::Unregistered,
        };
        let ip = self.ip;
        self.state.send_if_modified(|current| {
            if *current == state {
                return false;
            }
            match &outcome {
                Ok(_) => tracing::info!(%ip, "the node is registered"),
                Err(error) => tracing::warn!(%ip, %error, "the node is not registered"),
            }
            *current = state;
            true
        });
        outcome.ok()
    }
}

/// The next event of a watch; never, if there is none (the recheck interval ends then).
async fn next_hint(hints: &mut Option<Watch>) -> Event {
    match hints {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}
