//! How the containers of this node do, written to ZooKeeper by one task.
//!
//! ```text
//!  drivers ── tell ──► board { id → latest status } ── wakes ──► writer ──► /node/{ip}/container/{id}
//! ```
//!
//! The board keeps the latest status only, so a container that changes faster than ZooKeeper takes
//! costs nothing, and nothing is lost while ZooKeeper is away: when it is back, what is on the
//! board is written. No driver and no request ever waits for it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bismuth_daemon::{Backoff, Shutdown};
use bismuth_model::{ContainerId, ContainerStatus};
use bismuth_registry::Registry;
use tokio::sync::Notify;
use tracing::{debug, warn};

/// ZooKeeper is away for seconds when a server fails, for longer when all do.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// A reason above this is cut: with the record around it, it must fit a znode many times over.
const MAX_REASON: usize = 4096;

/// Latest statuses; clones share it.
#[derive(Clone, Debug, Default)]
pub struct StatusBoard {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<BTreeMap<ContainerId, Entry>>,
    changed: Notify,
}

#[derive(Debug)]
struct Entry {
    status: ContainerStatus,
    written: bool,
}

/// Where statuses are written: [`Registry`], or a fake.
#[async_trait]
pub trait StatusSink: Send + Sync {
    /// Writes one; `Ok(false)` if the container is not assigned to this node any more.
    async fn write(
        &self,
        id: ContainerId,
        status: &ContainerStatus,
    ) -> Result<bool, bismuth_registry::Error>;
}

/// The registry's records of one node.
#[derive(Clone)]
pub struct NodeRecords {
    /// Where they are.
    pub registry: Registry,
    /// Which node's.
    pub ip: Ipv4Addr,
}

#[async_trait]
impl StatusSink for NodeRecords {
    async fn write(
        &self,
        id: ContainerId,
        status: &ContainerStatus,
    ) -> Result<bool, bismuth_registry::Error> {
        match self
            .registry
            .update_container_status(self.ip, id, status)
            .await
        {
            Ok(()) => Ok(true),
            Err(
                bismuth_registry::Error::ContainerUnknown { .. }
                | bismuth_registry::Error::NodeUnknown { .. },
            ) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl StatusBoard {
    /// Puts a container's new status up.
    pub fn tell(&self, id: ContainerId, mut status: ContainerStatus) {
        if let Some(reason) = &mut status.reason
            && reason.len() > MAX_REASON
        {
            let end = (0..=MAX_REASON)
                .rev()
                .find(|i| reason.is_char_boundary(*i))
                .unwrap_or(0);
            reason.truncate(end);
            reason.push('…');
        }
        self.entries().insert(
            id,
            Entry {
                status,
                written: false,
            },
        );
        self.shared.changed.notify_one();
    }

    /// Takes a container off the board.
    pub fn forget(&self, id: ContainerId) {
        self.entries().remove(&id);
    }

    /// The latest status of a container.
    pub fn get(&self, id: ContainerId) -> Option<ContainerStatus> {
        self.entries().get(&id).map(|e| e.status.clone())
    }

    /// Writes everything again: what is in ZooKeeper may be older than the board.
    pub fn rewrite_all(&self) {
        for entry in self.entries().values_mut() {
            entry.written = false;
        }
        self.shared.changed.notify_one();
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        self.shared
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritten(&self) -> Option<(ContainerId, ContainerStatus)> {
        let entries = self.entries();
        let entry = entries.iter().find(|(_, e)| !e.written);
        entry.map(|(id, e)| (*id, e.status.clone()))
    }

    /// Marks as written what was written, unless there is something newer meanwhile.
    fn written(&self, id: ContainerId, status: &ContainerStatus) {
        if let Some(entry) = self.entries().get_mut(&id)
            && entry.status == *status
        {
            entry.written = true;
        }
    }

    /// Writes what is put up, until the shutdown.
    pub async fn write_to(self, sink: impl StatusSink, shutdown: Shutdown) {
        let mut delays = AGAIN.delays();
        loop {
            let Some((id, status)) = self.unwritten() else {
                tokio::select! {
                    () = self.shared.changed.notified() => continue,
                    () = shutdown.cancelled() => return,
                }
            };
            match sink.write(id, &status).await {
                Ok(assigned) => {
                    if !assigned {
                        debug!(container = %id, "not assigned any more, its status is not written");
                    }
                    self.written(id, &status);
                    delays.reset();
                }
                Err(error) => {
                    let delay = delays.next_delay();
                    warn!(container = %id, error = bismuth_daemon::exit::chain(&error), again_in_ms = delay.as_millis() as u64, "cannot write a container's status");
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = shutdown.cancelled() => return,
                    }
                }
            }
        }
    }
}
