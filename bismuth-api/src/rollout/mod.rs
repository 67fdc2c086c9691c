//! Bringing the newest revision of each function into service, without losing a request.
//!
//! ```text
//!  start, session lost, every minute ─► scan everything ─┐
//!  watch: a function changed ────────────────────────────┼─► one driver per function that is not finished
//!  PUT ──────────────────────────────────────────────────┘      look ─► plan (pure) ─► switch, release
//!                                                                 ▲                        │
//!  watch: a slot changed ───────────────── wakes ─────────────────┴────────────────────────┘
//! ```
//!
//! What is to be done is read from ZooKeeper each time, so an API that was killed loses nothing, and a
//! revision written by `bismuthctl` is rolled out as well. Two APIs that do the same at the same time
//! are harmless: every step is a transaction that checks what it builds on.

mod driver;
pub mod plan;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bismuth_base::{Backoff, chain, now_ms};
use bismuth_coord::Event;
use bismuth_daemon::Shutdown;
use bismuth_model::{Backend, ContainerRecord, FunctionId};
use bismuth_registry::{Error, Registry, ZnodeKind};
use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use crate::metrics::Metrics;
use driver::Wake;
use plan::{Observed, plan};

/// Everything is looked at again although no hint asked for it.
const SCAN_AGAIN: Duration = Duration::from_secs(60);
/// ZooKeeper does not answer, or the environment is not there yet.
const RETRY: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Functions read at a time: at a few KiB each, little memory.
const PAGE: usize = 500;

/// Where calls say that a function has a new revision. Clones are the same.
#[derive(Clone, Debug)]
pub struct Rollouts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    metrics: Metrics,
    /// How long slots stay after requests were switched away from them.
    settle: Duration,
    wanted: Mutex<BTreeSet<FunctionId>>,
    wake: Notify,
}

impl Rollouts {
    pub(crate) fn new(registry: Registry, metrics: Metrics, settle: Duration) -> Self {
        let shared = Shared {
            registry,
            metrics,
            settle,
            wanted: Mutex::default(),
            wake: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Looks at this function soon. A hint: what is to be done is read from ZooKeeper.
    pub fn begin(&self, id: FunctionId) {
        self.shared
            .wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id);
        self.shared.wake.notify_one();
    }

    fn take_wanted(&self) -> BTreeSet<FunctionId> {
        std::mem::take(
            &mut *self
                .shared
                .wanted
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

/// Runs all rollouts until the shutdown.
pub(crate) async fn run(rollouts: Rollouts, shutdown: Shutdown) {
    let mut crew = Crew {
        rollouts,
        drivers: JoinSet::new(),
        active: HashMap::new(),
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = crew.work() => {}
    }
    // Dropping the crew cuts the drivers off wherever they are: what is left is read again at the next start.
}

/// A function being rolled out.
struct Active {
    wake: Arc<Wake>,
    /// It was asked for since the driver began: look once more when that has ended.
    again: bool,
}

struct Crew {
    rollouts: Rollouts,
    drivers: JoinSet<(FunctionId, bool)>,
    active: HashMap<FunctionId, Active>,
}

impl Crew {
    async fn work(&mut self) {
        let mut delays = RETRY.delays();
        loop {
            match self.watch_and_drive().await {
                Ok(()) => delays.reset(),
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
    async fn watch_and_drive(&mut self) -> Result<(), Error> {
        let registry = self.rollouts.shared.registry.clone();
        // The watch first, so that nothing between the scan and the watch is missed.
        let mut watch = registry.tree().watch(registry.layout().root()).await?;
        for id in unfinished(&registry).await? {
            self.rollouts.begin(id);
        }
        let until = tokio::time::Instant::now() + SCAN_AGAIN;
        loop {
            for id in self.rollouts.take_wanted() {
                self.drive(id);
            }
            // Safe to cancel, each: events and ended drivers stay where they are until taken.
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                () = self.rollouts.shared.wake.notified() => {}
                Some(ended) = self.drivers.join_next() => self.ended(ended),
                event = watch.next() => match event {
                    Event::Lost => return Ok(()),
                    event => self.hint(&event),
                },
            }
        }
    }

    fn hint(&mut self, event: &Event) {
        let kind = event
            .path()
            .and_then(|path| self.rollouts.shared.registry.layout().znode_kind(path));
        match kind {
            Some(ZnodeKind::Function(id) | ZnodeKind::Backends(id)) => self.rollouts.begin(id),
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
        let driver = driver::Driver::new(id, Arc::clone(&self.rollouts.shared), Arc::clone(&wake));
        self.drivers.spawn(async move {
            // Unwind safety: the driver is gone after it, and what it shares is changed by single calls.
            let ran = AssertUnwindSafe(driver.run()).catch_unwind().await;
            (id, ran.is_ok())
        });
        self.active.insert(id, Active { wake, again: false });
        self.count();
    }

    fn ended(&mut self, ended: Result<(FunctionId, bool), JoinError>) {
        // An error is a driver that was cut off, which only happens when the crew is dropped.
        let Ok((id, in_good_order)) = ended else {
            return;
        };
        if !in_good_order {
            tracing::error!(function = %id, "the rollout panicked; the next scan begins it again");
        }
        if self
            .active
            .remove(&id)
            .is_some_and(|active| active.again && in_good_order)
        {
            self.rollouts.begin(id);
        }
        self.count();
    }

    fn count(&self) {
        let active = i64::try_from(self.active.len()).unwrap_or(i64::MAX);
        self.rollouts.shared.metrics.rollouts.set(active);
    }
}

/// The functions that something is to be done about.
async fn unfinished(registry: &Registry) -> Result<Vec<FunctionId>, Error> {
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
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = registry.list_functions(after, PAGE).await?;
        for function in &page.functions {
            let observed = Observed::new(function, slots.remove(&function.id).unwrap_or_default());
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
