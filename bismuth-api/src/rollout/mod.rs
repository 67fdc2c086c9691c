//! Bringing the newest revision of each function into service, without losing a request: the leader's work.
//!
//! ```text
//!  start, session lost, every minute ─► scan everything ─┐
//!  watch: a function changed ────────────────────────────┴─► one driver per function that is not finished
//!                                                               look ─► plan (pure) ─► switch, release
//!                                                                 ▲                        │
//!  watch: a slot changed ───────────────── wakes ─────────────────┴────────────────────────┘
//! ```
//!
//! What is to be done is read from ZooKeeper each time. So the next leader goes on with what this one began, and a
//! revision is rolled out whoever wrote it: any replica, or `bismuthctl`. Every step is a transaction that checks what
//! it builds on, and the leader's term: one that leads no more changes nothing. Before its first scan, a leader migrates
//! the functions that an earlier version wrote.

mod driver;
pub mod plan;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bismuth_base::{Backoff, chain, now_ms};
use bismuth_coord::Event;
use bismuth_model::{Backend, ContainerRecord, FunctionId, RevisionFate};
use bismuth_registry::{Error, Registry, ZnodeKind};
use futures_util::FutureExt as _;
use tokio::task::{JoinError, JoinSet};

use crate::metrics::Metrics;
use driver::{DriverEnd, Wake};
use plan::{Observed, plan};

/// Everything is looked at again although no hint asked for it.
const SCAN_AGAIN: Duration = Duration::from_secs(60);
/// ZooKeeper does not answer, or the environment is not there yet.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Functions read at a time: at a few KiB each, little memory.
const PAGE: usize = 500;

/// What all drivers use.
#[derive(Debug)]
struct Shared {
    /// Fenced by the leader's term.
    registry: Registry,
    metrics: Metrics,
    /// How long slots stay after requests were switched away from them.
    settle: Duration,
}

/// Runs all rollouts until the term that fences `registry` is over. Dropped, it cuts them off wherever they are: what is
/// left is read again by the next leader.
pub(crate) async fn run(registry: Registry, metrics: Metrics, settle: Duration) {
    let shared = Shared {
        registry,
        metrics,
        settle,
    };
    let mut rollouts = Rollouts {
        shared: Arc::new(shared),
        wanted: BTreeSet::new(),
        drivers: JoinSet::new(),
        active: HashMap::new(),
        migrated: false,
    };
    rollouts.work().await;
}

/// A function being rolled out.
struct Active {
    wake: Arc<Wake>,
    /// It was asked for since the driver began: look once more when that has ended.
    again: bool,
}

/// The rollouts of one term.
struct Rollouts {
    shared: Arc<Shared>,
    /// Functions to look at.
    wanted: BTreeSet<FunctionId>,
    drivers: JoinSet<(FunctionId, DriverEnd)>,
    active: HashMap<FunctionId, Active>,
    /// Whether every function has the records that earlier versions did not write.
    migrated: bool,
}

/// Why a pass over all functions ended.
enum PassEnd {
    /// It is time for another.
    ScanAgain,
    /// The term is over.
    TermLost,
}

impl Drop for Rollouts {
    fn drop(&mut self) {
        self.shared.metrics.rollouts.set(0);
    }
}

impl Rollouts {
    async fn work(&mut self) {
        let mut delays = RETRY.delays();
        loop {
            match self.watch_and_drive().await {
                Ok(PassEnd::ScanAgain) => delays.reset(),
                Ok(PassEnd::TermLost) => return,
                Err(error) => {
                    tracing::debug!(
                        error = chain(&error),
                        "the functions cannot be looked at; trying again"
                    );
                    // Drivers that are under way go on meanwhile.
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }

    /// From one scan to the next. An error means that ZooKeeper could not be asked.
    async fn watch_and_drive(&mut self) -> Result<PassEnd, Error> {
        let registry = self.shared.registry.clone();
        // The watch first, so that nothing between the scan and the watch is missed.
        let mut watch = registry.tree().watch(registry.layout().root()).await?;
        if !self.migrated {
            migrate(&registry).await?;
            self.migrated = true;
        }
        self.wanted.extend(unfinished(&registry).await?);
        let until = tokio::time::Instant::now() + SCAN_AGAIN;
        loop {
            for id in std::mem::take(&mut self.wanted) {
                self.drive(id);
            }
            // Safe to cancel, each: events and ended drivers stay where they are until taken.
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(PassEnd::ScanAgain),
                Some(ended) = self.drivers.join_next() => {
                    if let Some(end) = self.ended(ended) {
                        return Ok(end);
                    }
                }
                event = watch.next() => match event {
                    Event::Lost => return Ok(PassEnd::ScanAgain),
                    event => self.hint(&event),
                },
            }
        }
    }

    fn hint(&mut self, event: &Event) {
        let kind = event
            .path()
            .and_then(|path| self.shared.registry.layout().znode_kind(path));
        match kind {
            Some(ZnodeKind::Function(id) | ZnodeKind::Backends(id)) => {
                self.wanted.insert(id);
            }
            Some(ZnodeKind::Container(_, container)) => {
                self.active
                    .values()
                    .for_each(|active| active.wake.slot_changed(container));
            }
            _ => {}
        }
    }

    fn drive(&mut self, id: FunctionId) {
        if let Some(active) = self.active.get_mut(&id) {
            active.again = true;
            active.wake.now();
            return;
        }
        let wake = Arc::new(Wake::default());
        let driver = driver::Driver::new(id, Arc::clone(&self.shared), Arc::clone(&wake));
        self.drivers.spawn(async move {
            // Unwind safety: the driver is gone after it, and what it shares is changed by single calls.
            let ran = AssertUnwindSafe(driver.run()).catch_unwind().await;
            (id, ran.unwrap_or(DriverEnd::Panicked))
        });
        self.active.insert(id, Active { wake, again: false });
        self.count();
    }

    /// Takes note of an ended driver; something if that ends the pass.
    fn ended(&mut self, ended: Result<(FunctionId, DriverEnd), JoinError>) -> Option<PassEnd> {
        // An error is a driver that was cut off, which only happens when all are dropped.
        let (id, end) = ended.ok()?;
        let again = self.active.remove(&id).is_some_and(|active| active.again);
        self.count();
        match end {
            DriverEnd::Finished if again => {
                self.wanted.insert(id);
            }
            DriverEnd::Finished => {}
            DriverEnd::Panicked => {
                tracing::error!(function = %id, "the rollout panicked; the next scan begins it again");
            }
            DriverEnd::TermLost => return Some(PassEnd::TermLost),
        }
        None
    }

    fn count(&self) {
        let active = i64::try_from(self.active.len()).unwrap_or(i64::MAX);
        self.shared.metrics.rollouts.set(active);
    }
}

/// Gives the functions of earlier versions the records that those did not write. What cannot be migrated stays as it is and
/// works on: the others do not wait for it.
async fn migrate(registry: &Registry) -> Result<(), Error> {
    let unmigrated = registry.unmigrated_functions().await?;
    if unmigrated.is_empty() {
        return Ok(());
    }
    // Every node once, and not once for each function.
    let mut slots = slots_by_function(registry).await?;
    for id in unmigrated {
        let assigned = slots.remove(&id).unwrap_or_default();
        match registry.migrate_function(id, &assigned).await {
            Ok(true) => {
                tracing::info!(function = %id, "its slots are listed and its revision is kept, from now on")
            }
            Ok(false) => {}
            Err(error) if error.is_unavailable() || matches!(error, Error::TermLost { .. }) => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(function = %id, error = chain(&error), "it stays in the form of an earlier version");
            }
        }
    }
    Ok(())
}

async fn slots_by_function(
    registry: &Registry,
) -> Result<HashMap<FunctionId, Vec<(Backend, ContainerRecord)>>, Error> {
    let mut slots: HashMap<FunctionId, Vec<(Backend, ContainerRecord)>> = HashMap::new();
    for node in registry.list_nodes().await? {
        for (container_id, record) in node.containers {
            let slot = Backend {
                ip: node.ip,
                container_id,
            };
            slots
                .entry(record.function_id)
                .or_default()
                .push((slot, record));
        }
    }
    Ok(slots)
}

/// The functions that something is to be done about.
async fn unfinished(registry: &Registry) -> Result<Vec<FunctionId>, Error> {
    let mut slots = slots_by_function(registry).await?;
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = registry.list_functions(after, PAGE).await?;
        let mut fates = registry.newest_fates(&page.functions).await?;
        for function in &page.functions {
            let slots = slots.remove(&function.id).unwrap_or_default();
            let fate = fates.remove(&function.id);
            let fate = fate.unwrap_or(RevisionFate::Proven);
            let routed = function.backends.clone();
            let observed = Observed::new(&function.record, routed, slots, fate);
            if !plan(&observed, now_ms(), |_| true).is_finished() {
                found.push(function.id);
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}
