//! A node's sign of life: an ephemeral node that is there while its bismuthd is.
//!
//! ```text
//!            ┌──── session lost, node deleted, time to look again ────┐
//!            ▼                                                         │
//!  look ─► nothing there ──────────────────► create ─► Present ───────┘
//!     ├──► ours of an earlier session ─────► replace ─► Present
//!     │    (same epoch)
//!     ├──► somebody else's (other epoch) ──► ServedByOther, look again later
//!     └──► no answer ──────────────────────► Absent, look again soon
//! ```
//!
//! The epoch is written once to the node's state directory. So a restarted bismuthd recognises what it left behind
//! and need not wait for its old session to end, and a second machine with the same address is told apart.

use std::net::Ipv4Addr;
use std::time::Duration;

use bismuth_base::backoff::{Backoff, jittered};
use bismuth_coord::{Event, Kind, Op, Watch};
use bismuth_model::NodeFacts;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Registry;
use crate::codec::Record;
use crate::error::{Error, Result};
use crate::transaction::{Attempts, delete, encode};

/// How often the sign of life is looked at when nothing hints at a change: the watch and the session tell, this
/// is for what neither told.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// The waits between attempts while there is no answer, or somebody else is there: soon enough after ZooKeeper is
/// back, and rare enough for a cluster of nodes that all wait.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// The waits after having replaced a sign of life of our own epoch. Normally that happens once per session; when it
/// happens again and again, two processes share one state directory, and they shall not fight at full speed.
const REPLACED: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// How a node is known to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is not, for the moment: ZooKeeper does not answer.
    Absent,
    /// It is alive.
    Present,
    /// Another bismuthd has this node.
    ServedByOther {
        /// Its epoch.
        epoch: String,
    },
    /// The node is not in this environment (any more).
    NotProvisioned,
}

/// Keeps a node announced until it is dropped or [withdrawn](Self::withdraw).
///
/// When it is dropped, the sign of life stays until the session ends.
#[derive(Debug)]
pub struct Announcement {
    registry: Registry,
    ip: Ipv4Addr,
    presence: watch::Receiver<Presence>,
    keeper: JoinHandle<()>,
}

impl Announcement {
    /// How the node is known to the others, now and from now on.
    #[must_use]
    pub fn presence(&self) -> watch::Receiver<Presence> {
        self.presence.clone()
    }

    /// Takes the sign of life away at once, for an orderly end.
    ///
    /// # Errors
    /// [`Error::Tree`]; then it goes with the session.
    pub async fn withdraw(self) -> Result<()> {
        self.keeper.abort();
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

impl Drop for Announcement {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What showing the sign of life took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// It was there, or was created.
    Plainly,
    /// One of an earlier session was replaced.
    Replaced,
}

impl Registry {
    /// Announces that this process serves a node, and keeps it announced over lost sessions. While ZooKeeper does
    /// not answer, the announcement is made but [absent](Presence::Absent), and appears as soon as it can.
    ///
    /// # Errors
    /// [`Error::NodeAlreadyServed`] if a bismuthd of another epoch has the node, [`Error::NodeUnknown`] if it is not
    /// provisioned, [`Error::Record`] if the facts do not fit or what is there cannot be read.
    pub async fn announce_node(&self, ip: Ipv4Addr, facts: &NodeFacts) -> Result<Announcement> {
        let first = match self.show_alive(ip, facts).await {
            Ok(_) => Presence::Present,
            Err(error) if error.is_unavailable() => {
                tracing::warn!(%ip, %error, "the node cannot be announced yet");
                Presence::Absent
            }
            Err(error) => return Err(error),
        };
        let (sender, presence) = watch::channel(first);
        let keeper = Keeper {
            registry: self.clone(),
            ip,
            facts: facts.clone(),
            presence: sender,
        };
        let keeper = tokio::spawn(keeper.run());
        Ok(Announcement {
            registry: self.clone(),
            ip,
            presence,
            keeper,
        })
    }

    /// Makes sure that the sign of life is there, is of this session, and says these facts.
    async fn show_alive(&self, ip: Ipv4Addr, facts: &NodeFacts) -> Result<Shown> {
        let path = self.layout.alive(ip);
        let data = encode(&path, facts)?;
        let create = Op::Create {
            path: path.clone(),
            data: data.clone(),
            kind: Kind::Ephemeral,
        };
        let mut attempts = Attempts::new(format!("announce node {ip}"));
        loop {
            let (ops, shown) = match self.tree.get(&path).await {
                Ok(node) if node.mine && node.data == data => return Ok(Shown::Plainly),
                Ok(node) if node.mine => (
                    vec![delete(path.clone(), node.version), create.clone()],
                    Shown::Plainly,
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
                        Shown::Replaced,
                    )
                }
                Err(error) if error.is_not_found() => (vec![create.clone()], Shown::Plainly),
                Err(error) => return Err(error.into()),
            };
            match self.tree.commit(ops).await {
                Ok(()) => return Ok(shown),
                // The node above is what is missing, unless ours went between the look and the replacement.
                Err(error)
                    if error.is_not_found()
                        && self.tree.exists(&self.layout.node(ip)).await?.is_none() =>
                {
                    return Err(Error::NodeUnknown { ip });
                }
                // What became of it, the next look tells.
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

/// The task behind an [`Announcement`].
struct Keeper {
    registry: Registry,
    ip: Ipv4Addr,
    facts: NodeFacts,
    presence: watch::Sender<Presence>,
}

impl Keeper {
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
            let wait = match self.look().await {
                Some(Shown::Plainly) => {
                    failures.reset();
                    replacements.reset();
                    jittered(LOOK_AGAIN)
                }
                Some(Shown::Replaced) => {
                    failures.reset();
                    tokio::time::sleep(replacements.next_delay()).await;
                    continue;
                }
                None => failures.next_delay(),
            };
            tokio::select! {
                changed = session.changed() => {
                    if changed.is_err() {
                        // The tree is gone, and with it whatever could be announced.
                        return;
                    }
                }
                _ = next_hint(&mut hints) => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Looks, mends, and publishes how it stands; `None` if the node is not announced now.
    async fn look(&self) -> Option<Shown> {
        let shown = self.registry.show_alive(self.ip, &self.facts).await;
        let presence = match &shown {
            Ok(_) => Presence::Present,
            Err(Error::NodeAlreadyServed { epoch, .. }) => Presence::ServedByOther {
                epoch: epoch.clone(),
            },
            Err(Error::NodeUnknown { .. }) => Presence::NotProvisioned,
            Err(_) => Presence::Absent,
        };
        let ip = self.ip;
        self.presence.send_if_modified(|current| {
            if *current == presence {
                return false;
            }
            match &shown {
                Ok(_) => tracing::info!(%ip, "the node is announced"),
                Err(error) => tracing::warn!(%ip, %error, "the node is not announced"),
            }
            *current = presence;
            true
        });
        shown.ok()
    }
}

/// The next event of a watch; never, if there is none (the time to look again comes then).
async fn next_hint(hints: &mut Option<Watch>) -> Event {
    match hints {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}
