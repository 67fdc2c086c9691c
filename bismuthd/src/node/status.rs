//! Reports the status of this node's containers to ZooKeeper, from one task.
//!
//! ```text
//!  drivers ── report ──► entries { id → latest status } ── wakes ──► writer ──► /node/{ip}/container/{id}
//!                                        ▲                             │
//!                                        └─── differs? written again ◄─┘ every minute, all are read
//! ```
//!
//! Only the latest status is kept, so a container that changes faster than ZooKeeper takes
//! costs nothing, and nothing is lost while ZooKeeper is away: when it is back, what is in the
//! entries is written. One that cannot be written waits by itself and holds up no other. No driver and
//! no request ever waits for any of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bismuth_base::{Backoff, Delays};
use bismuth_daemon::Shutdown;
use bismuth_model::{ContainerId, ContainerStatus};
use bismuth_registry::{Error, Registry};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

/// ZooKeeper is away for seconds when a server fails, for longer when all do.
const RETRY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// How often what is written is compared with what should be. One list and one read per container.
const COMPARE_INTERVAL: Duration = Duration::from_secs(60);

/// A reason above this is cut: with the record around it, it must fit a znode many times over.
const MAX_REASON: usize = 4096;

/// The latest status of each container, and whether it was written; clones share it.
#[derive(Clone, Debug, Default)]
pub struct StatusReporter {
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
    /// Where it could not be written: the next try.
    again: Option<(Instant, Delays)>,
}

/// What the writer does next.
enum Next {
    Write(ContainerId, ContainerStatus),
    WaitUntil(Instant),
    Wait,
}

/// Where statuses are written: [`Registry`], or a fake.
#[async_trait]
pub trait StatusSink: Send + Sync {
    /// Writes one; `Ok(false)` if the container is not assigned to this node any more.
    async fn write(&self, id: ContainerId, status: &ContainerStatus) -> Result<bool, Error>;

    /// All that are written and can be read.
    async fn read(&self) -> Result<Vec<(ContainerId, ContainerStatus)>, Error>;
}

/// The registry's records of one node.
#[derive(Clone)]
pub struct NodeRecords {
    pub registry: Registry,
    pub ip: Ipv4Addr,
}

#[async_trait]
impl StatusSink for NodeRecords {
    async fn write(&self, id: ContainerId, status: &ContainerStatus) -> Result<bool, Error> {
        let updating = self.registry.update_container_status(self.ip, id, status);
        match updating.await {
            Ok(()) => Ok(true),
            Err(Error::ContainerUnknown { .. } | Error::NodeUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Vec<(ContainerId, ContainerStatus)>, Error> {
        let node = self.registry.node(self.ip).await?;
        let containers = node.map(|node| node.containers).unwrap_or_default();
        let statuses = containers.into_iter();
        Ok(statuses.map(|(id, record)| (id, record.status)).collect())
    }
}

impl StatusReporter {
    /// Sets a container's status, to be written.
    pub fn report(&self, id: ContainerId, mut status: ContainerStatus) {
        if let Some(reason) = &mut status.reason
            && reason.len() > MAX_REASON
        {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            reason.push('…');
        }
        let entry = Entry {
            status,
            written: false,
            again: None,
        };
        self.entries().insert(id, entry);
        self.shared.changed.notify_one();
    }

    /// Removes a container's status: it is not written any more.
    pub fn remove(&self, id: ContainerId) {
        self.entries().remove(&id);
    }

    pub fn get(&self, id: ContainerId) -> Option<ContainerStatus> {
        self.entries().get(&id).map(|e| e.status.clone())
    }

    /// Has those written again that are there otherwise than they should be: an operator's repair, say.
    fn compare(&self, there: &[(ContainerId, ContainerStatus)]) {
        let mut entries = self.entries();
        for (id, status) in there {
            if let Some(entry) = entries.get_mut(id)
                && entry.written
                && entry.status != *status
            {
                entry.written = false;
            }
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<ContainerId, Entry>> {
        self.shared
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, now: Instant) -> Next {
        let entries = self.entries();
        let mut earliest: Option<Instant> = None;
        for (id, entry) in entries.iter().filter(|(_, entry)| !entry.written) {
            match &entry.again {
                Some((at, _)) if now < *at => {
                    earliest = Some(earliest.map_or(*at, |earliest| earliest.min(*at)));
                }
                _ => return Next::Write(*id, entry.status.clone()),
            }
        }
        earliest.map_or(Next::Wait, Next::WaitUntil)
    }

    /// Puts off what could not be written; returns by how much.
    fn put_off(&self, id: ContainerId) -> Option<Duration> {
        let mut entries = self.entries();
        let entry = entries.get_mut(&id)?;
        let (_, delays) = entry
            .again
            .get_or_insert_with(|| (Instant::now(), RETRY_BACKOFF.delays()));
        let delay = delays.next_delay();
        if let Some((at, _)) = &mut entry.again {
            *at = Instant::now() + delay;
        }
        Some(delay)
    }

    /// Marks as written what was written, unless there is something newer meanwhile.
    fn written(&self, id: ContainerId, status: &ContainerStatus) {
        if let Some(entry) = self.entries().get_mut(&id)
            && entry.status == *status
        {
            entry.written = true;
            entry.again = None;
        }
    }

    /// Writes what is reported, until the shutdown.
    pub async fn write_to(self, sink: impl StatusSink, shutdown: Shutdown) {
        let mut timer =
            tokio::time::interval_at(Instant::now() + COMPARE_INTERVAL, COMPARE_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let again = match self.next(Instant::now()) {
                Next::Write(id, status) => {
                    tokio::select! {
                        () = self.write(&sink, id, &status) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
                Next::WaitUntil(at) => at,
                Next::Wait => Instant::now() + COMPARE_INTERVAL,
            };
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep_until(again) => {}
                _ = timer.tick() => match sink.read().await {
                    Ok(there) => self.compare(&there),
                    Err(error) => debug!(error = bismuth_base::chain(&error), "cannot compare the statuses"),
                },
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn write(&self, sink: &impl StatusSink, id: ContainerId, status: &ContainerStatus) {
        match sink.write(id, status).await {
            Ok(assigned) => {
                if !assigned {
                    debug!(container = %id, "not assigned any more, its status is not written");
                }
                self.written(id, status);
            }
            Err(error) => {
                let again_in_ms = self.put_off(id).unwrap_or_default().as_millis() as u64;
                warn!(container = %id, error = bismuth_base::chain(&error), again_in_ms, "cannot write a container's status");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bismuth_model::ContainerState;

    use super::*;

    /// Refuses some containers for good; keeps the rest.
    #[derive(Clone, Default)]
    struct Sink {
        kept: Arc<Mutex<BTreeMap<ContainerId, ContainerStatus>>>,
        refused: Vec<ContainerId>,
    }

    #[async_trait]
    impl StatusSink for Sink {
        async fn write(&self, id: ContainerId, status: &ContainerStatus) -> Result<bool, Error> {
            if self.refused.contains(&id) {
                let ip = Ipv4Addr::LOCALHOST;
                return Err(Error::NodeUnknown { ip });
            }
            self.kept.lock().unwrap().insert(id, status.clone());
            Ok(true)
        }

        async fn read(&self) -> Result<Vec<(ContainerId, ContainerStatus)>, Error> {
            let kept = self.kept.lock().unwrap();
            Ok(kept.iter().map(|(id, s)| (*id, s.clone())).collect())
        }
    }

    fn status(state: ContainerState) -> ContainerStatus {
        ContainerStatus {
            state,
            ..ContainerStatus::assigned(1)
        }
    }

    async fn shows(sink: &Sink, id: ContainerId, state: ContainerState) {
        let shown = async {
            while sink.kept.lock().unwrap().get(&id).map(|s| s.state) != Some(state) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let bound = COMPARE_INTERVAL + Duration::from_secs(1);
        tokio::time::timeout(bound, shown).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_cannot_be_written_delays_no_other() {
        let (bad, good) = (
            ContainerId::from_bytes([0; 16]),
            ContainerId::from_bytes([1; 16]),
        );
        let sink = Sink {
            refused: vec![bad],
            ..Sink::default()
        };
        let (reporter, shutdown) = (StatusReporter::default(), Shutdown::new());
        reporter.report(bad, status(ContainerState::Running));
        reporter.report(good, status(ContainerState::Running));
        let writer = tokio::spawn(reporter.clone().write_to(sink.clone(), shutdown.clone()));
        shows(&sink, good, ContainerState::Running).await;
        reporter.report(good, status(ContainerState::Failed));
        shows(&sink, good, ContainerState::Failed).await;
        shutdown.trigger();
        writer.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_that_somebody_overwrote_is_written_again() {
        let id = ContainerId::from_bytes([1; 16]);
        let (reporter, sink, shutdown) =
            (StatusReporter::default(), Sink::default(), Shutdown::new());
        reporter.report(id, status(ContainerState::Running));
        let writer = tokio::spawn(reporter.clone().write_to(sink.clone(), shutdown.clone()));
        shows(&sink, id, ContainerState::Running).await;
        let assigned = ContainerStatus::assigned(1);
        sink.kept.lock().unwrap().insert(id, assigned);
        shows(&sink, id, ContainerState::Running).await;
        shutdown.trigger();
        writer.await.unwrap();
    }
}
