//! One loop that makes the node match its assignment.
//!
//! ```text
//!  start:  what is remembered on disk ─► adopt          (at once, without ZooKeeper)
//!  then:   assignment changed │ 30 s passed │ a driver ended ─► the same step over the whole truth
//! ```
//!
//! Nothing is removed before ZooKeeper has said what is assigned and has taken this process for the one that
//! serves the node: a start without it serves what the node served before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bismuth_base::now_ms;
use bismuth_containerd::TaskEvent;
use bismuth_daemon::{Policy, Shutdown, Tasks};
use bismuth_model::{ContainerId, FunctionDefinition, FunctionId, Revision};
use bismuth_registry::Assignment;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::driver::{Begin, Driver, StopBounds};
use super::launch::Launcher;
use super::plan::{Observed, Step, plan};
use super::slot::Slot;
use super::state_dir::SavedSlot;
use super::status::StatusBoard;
use crate::presence::Announced;

/// How often the whole truth is looked at without a hint, so that what a hint missed is mended.
const RESYNC: Duration = Duration::from_secs(30);

/// The slots that this node serves, swapped whole.
pub type SlotTable = ArcSwap<HashMap<ContainerId, Arc<Slot>>>;

/// A container that should be here.
#[derive(Clone, Debug)]
struct Desired {
    function_id: FunctionId,
    revision: Revision,
    definition: Arc<FunctionDefinition>,
    created_ms: u64,
}

/// What drivers of this node share.
#[derive(Clone)]
pub struct Means {
    /// Starts and stops.
    pub launcher: Arc<Launcher>,
    /// Where statuses go.
    pub board: StatusBoard,
    /// How long a retired container may take.
    pub bounds: StopBounds,
    /// Requests that may wait before one container.
    pub queue: usize,
}

struct Driven {
    slot: Arc<Slot>,
    retired: CancellationToken,
}

/// The loop's state.
pub struct Reconciler {
    means: Means,
    table: Arc<SlotTable>,
    tasks: Tasks,
    driven: BTreeMap<ContainerId, Driven>,
    ended: mpsc::UnboundedReceiver<ContainerId>,
    end: mpsc::UnboundedSender<ContainerId>,
}

impl Reconciler {
    /// A reconciler that publishes what it serves in `table` and runs its drivers in `tasks`.
    pub fn new(means: Means, table: Arc<SlotTable>, tasks: Tasks) -> Self {
        // Unbounded: each driver sends once, when it ends.
        let (end, ended) = mpsc::unbounded_channel();
        Self {
            means,
            table,
            tasks,
            driven: BTreeMap::new(),
            ended,
            end,
        }
    }

    /// Follows the assignment until the shutdown, once the node is announced: before that another process may
    /// be serving it.
    pub async fn run(
        mut self,
        mut assignment: watch::Receiver<Arc<Assignment>>,
        announced: Announced,
        shutdown: Shutdown,
    ) {
        tokio::select! {
            () = announced.wait() => {}
            () = shutdown.cancelled() => return,
        }
        let mut events = self.means.launcher.tasks().events();
        let mut timer = tokio::time::interval(RESYNC);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Each arm only says that something may have changed; all are safe to cancel.
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = assignment.changed() => if changed.is_err() { return },
                Some(id) = self.ended.recv() => self.take_off(id),
                // Drivers see the end of a process by its pidfd, earlier than containerd can say
                // it; a gap in the events means that containerd was away.
                event = events.next() => if event != Some(TaskEvent::Lost) { continue },
                _ = timer.tick() => {}
            }
            let latest = Arc::clone(&assignment.borrow_and_update());
            if latest.complete {
                self.reconcile(&self.desired(&latest)).await;
            }
        }
    }

    /// Serves every container that is remembered, adopted or not. Before that no request is to be taken:
    /// it would be told that its container is unknown.
    pub async fn serve_remembered(&mut self) {
        let state = Arc::clone(self.means.launcher.state());
        let read = tokio::task::spawn_blocking(move || {
            let ids = state.containers()?;
            Ok::<_, super::state_dir::StateError>(
                ids.into_iter()
                    .map(|id| (id, state.load_slot(id)))
                    .collect::<Vec<_>>(),
            )
        });
        let slots = match read.await {
            Ok(Ok(slots)) => slots,
            Ok(Err(error)) => {
                warn!(
                    error = bismuth_daemon::exit::chain(&error),
                    "cannot read what the node served before"
                );
                return;
            }
            Err(_panicked) => return,
        };
        for (id, saved) in slots {
            match saved {
                Ok(Some(saved)) => {
                    self.serve(id, from_disk(&saved), Begin::Remembered(Box::new(saved)))
                }
                Ok(None) => {}
                Err(error) => {
                    warn!(container = %id, error = bismuth_daemon::exit::chain(&error), "cannot read what is remembered of a container")
                }
            }
        }
        self.publish();
    }

    async fn reconcile(&mut self, desired: &BTreeMap<ContainerId, Desired>) {
        let observed = match self.observe().await {
            Some(observed) => observed,
            // Without the list nothing can be swept, but what is driven and desired is known.
            None => Observed {
                driven: self.driven.keys().copied().collect(),
                ..Observed::default()
            },
        };
        let steps = plan(desired, &observed);
        if steps.is_empty() {
            return;
        }
        info!(steps = steps.len(), "reconciling");
        for step in &steps {
            if let Step::Retire(id) = step
                && let Some(driven) = self.driven.get(id)
            {
                driven.retired.cancel();
            }
        }
        self.publish();
        for step in steps {
            match step {
                Step::Retire(_) => {}
                Step::Sweep(id) => self.sweep(id).await,
                Step::Adopt(id) => self.adopt(id, desired).await,
                Step::Create(id) => {
                    if let Some(wanted) = desired.get(&id) {
                        self.serve(id, wanted.clone(), Begin::Fresh);
                    }
                }
            }
        }
        self.publish();
    }

    /// What is assigned. A slot whose definition cannot be had now goes on as it is if it is
    /// served here already; it cannot be started anew.
    fn desired(&self, assignment: &Assignment) -> BTreeMap<ContainerId, Desired> {
        let assigned = assignment.containers.iter().map(|(id, assigned)| {
            let desired = Desired {
                function_id: assigned.function_id,
                revision: assigned.revision,
                definition: Arc::clone(&assigned.definition),
                created_ms: assigned.status_at_list.created_ms,
            };
            (*id, desired)
        });
        let kept = assignment.unresolved.keys().filter_map(|id| {
            let slot = &self.driven.get(id)?.slot;
            let desired = Desired {
                function_id: slot.function_id,
                revision: slot.revision,
                definition: Arc::clone(&slot.definition),
                created_ms: now_ms(),
            };
            Some((*id, desired))
        });
        kept.chain(assigned).collect()
    }

    async fn observe(&self) -> Option<Observed> {
        let in_containerd = match self.means.launcher.in_containerd().await {
            Ok(ids) => ids.into_iter().collect(),
            Err(error) => {
                warn!(
                    error = bismuth_daemon::exit::chain(&error),
                    "cannot list the containers in containerd"
                );
                return None;
            }
        };
        let on_disk = match self.means.launcher.state().containers() {
            Ok(ids) => ids,
            Err(error) => {
                warn!(
                    error = bismuth_daemon::exit::chain(&error),
                    "cannot list the containers on disk"
                );
                return None;
            }
        };
        Some(Observed {
            driven: self.driven.keys().copied().collect(),
            in_containerd,
            on_disk,
        })
    }

    async fn sweep(&self, id: ContainerId) {
        info!(container = %id, "nobody assigned it, removing what an earlier process left");
        if self.means.launcher.teardown(id).await {
            // Whatever failed is logged, and found again by the next round.
            self.means.launcher.delete(id).await;
        }
    }

    async fn adopt(&mut self, id: ContainerId, desired: &BTreeMap<ContainerId, Desired>) {
        let Some(wanted) = desired.get(&id) else {
            return;
        };
        match self.means.launcher.state().load_slot(id) {
            Ok(Some(saved)) => {
                self.serve(id, from_disk(&saved), Begin::Remembered(Box::new(saved)))
            }
            Ok(None) | Err(_) => {
                // Half of it is here and nothing tells what it is: start it properly.
                self.means.launcher.teardown(id).await;
                self.serve(id, wanted.clone(), Begin::Fresh);
            }
        }
    }

    fn serve(&mut self, id: ContainerId, wanted: Desired, begin: Begin) {
        if let Begin::Remembered(saved) = &begin {
            self.means.launcher.recover_services(id, saved);
        }
        let slot = Arc::new(Slot::new(
            id,
            wanted.function_id,
            wanted.revision,
            wanted.definition,
            self.means.queue,
        ));
        let retired = CancellationToken::new();
        let driver = Driver::new(
            Arc::clone(&slot),
            Arc::clone(&self.means.launcher),
            self.means.board.clone(),
            self.means.bounds,
            retired.clone(),
            wanted.created_ms,
        );
        let end = EndNotice(self.end.clone(), id);
        self.tasks
            .spawn(format!("container {id}"), Policy::BestEffort, async move {
                let _told_also_on_panic = end;
                driver.run(begin).await;
            });
        self.driven.insert(id, Driven { slot, retired });
    }

    fn take_off(&mut self, id: ContainerId) {
        let Some(driven) = self.driven.remove(&id) else {
            return;
        };
        let function = driven.slot.function_id;
        if !self.driven.values().any(|d| d.slot.function_id == function) {
            self.means.launcher.release_ids(function);
        }
        self.publish();
    }

    /// Retired slots are out of the table at once: requests for them are told to go elsewhere.
    fn publish(&self) {
        let serving = self
            .driven
            .iter()
            .filter(|(_, d)| !d.retired.is_cancelled());
        let table: HashMap<_, _> = serving.map(|(id, d)| (*id, Arc::clone(&d.slot))).collect();
        self.table.store(Arc::new(table));
    }
}

/// Tells the loop that a driver is gone, however it went.
struct EndNotice(mpsc::UnboundedSender<ContainerId>, ContainerId);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // The loop may be gone before its drivers when the process ends.
        let _ = self.0.send(self.1);
    }
}

fn from_disk(saved: &SavedSlot) -> Desired {
    Desired {
        function_id: saved.function_id,
        revision: saved.revision,
        definition: Arc::clone(&saved.definition),
        created_ms: saved.created_ms,
    }
}
