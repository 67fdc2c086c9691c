//! The reconcile loop: makes the containers of the node match its assignment.
//!
//! ```text
//!  start:  what is saved on disk  ─► adopt          (at once, without ZooKeeper)
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
use bismuth_containerd::tasks::TaskStatus;
use bismuth_daemon::{Policy, Shutdown, Tasks};
use bismuth_model::{
    ContainerId, ContainerState, ContainerStatus, FunctionDefinition, FunctionId, Revision,
};
use bismuth_registry::Assignment;
use bismuth_sandbox::ids::IdRange;
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::driver::{Driver, Origin, StopBounds};
use super::launch::Launcher;
use super::plan::{Observed, Step, plan};
use super::slot::Slot;
use super::state_dir::{SavedSlot, StateError};
use super::status::StatusReporter;
use crate::node_registration::Registered;

/// How often the whole truth is looked at without a hint, so that what a hint missed is mended.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);

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
pub struct Deps {
    pub launcher: Arc<Launcher>,
    pub reporter: StatusReporter,
    /// How long a retired container may take.
    pub bounds: StopBounds,
    /// Requests that may wait before one container.
    pub queue: usize,
}

/// The loop's state.
pub struct Reconciler {
    deps: Deps,
    table: Arc<SlotTable>,
    tasks: Tasks,
    driven: BTreeMap<ContainerId, Arc<Slot>>,
    ended: mpsc::UnboundedReceiver<ContainerId>,
    end: mpsc::UnboundedSender<ContainerId>,
}

impl Reconciler {
    /// A reconciler that publishes what it serves in `table` and runs its drivers in `tasks`.
    pub fn new(deps: Deps, table: Arc<SlotTable>, tasks: Tasks) -> Self {
        // Unbounded: each driver sends once, when it ends.
        let (end, ended) = mpsc::unbounded_channel();
        Self {
            deps,
            table,
            tasks,
            driven: BTreeMap::new(),
            ended,
            end,
        }
    }

    /// Follows the assignment until the shutdown, once the node is registered: before that another process may
    /// be serving it.
    pub async fn run(
        mut self,
        mut assignment: watch::Receiver<Arc<Assignment>>,
        registered: Registered,
        shutdown: Shutdown,
    ) {
        tokio::select! {
            () = registered.wait() => {}
            () = shutdown.cancelled() => return,
        }
        let mut events = self.deps.launcher.tasks().events();
        let mut timer = tokio::time::interval(RESYNC_INTERVAL);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Each arm only says that something may have changed; all are safe to cancel.
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = assignment.changed() => if changed.is_err() { return },
                Some(id) = self.ended.recv() => self.remove_driven(id),
                // Drivers see the end of a process by its pidfd, earlier than containerd can say
                // it; a gap in the events means that containerd was away.
                event = events.next() => if event != Some(TaskEvent::Lost) { continue },
                _ = timer.tick() => {}
            }
            let latest = Arc::clone(&assignment.borrow_and_update());
            if latest.complete {
                self.reconcile(&latest).await;
            }
        }
    }

    /// Serves every container that is saved on disk, adopted or not. Before that no request is to be taken:
    /// it would be told that its container is unknown.
    pub async fn serve_recovered(&mut self) {
        let state = Arc::clone(self.deps.launcher.state());
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
                    error = bismuth_base::chain(&error),
                    "cannot read what the node served before"
                );
                return;
            }
            Err(_panicked) => return,
        };
        for (id, saved) in slots {
            match saved {
                Ok(Some(saved)) => {
                    self.serve(id, from_disk(&saved), Origin::Recovered(Box::new(saved)))
                }
                Ok(None) => {}
                Err(error) => {
                    warn!(container = %id, error = bismuth_base::chain(&error), "cannot read what is saved of a container")
                }
            }
        }
        self.publish();
    }

    async fn reconcile(&mut self, assignment: &Assignment) {
        let desired = desired(assignment);
        let steps = plan(&desired, &assignment.unresolved, &self.observe().await);
        if steps.is_empty() {
            return;
        }
        info!(steps = steps.len(), "reconciling");
        for step in &steps {
            if let Step::Retire(id) = step
                && let Some(slot) = self.driven.get(id)
            {
                slot.retire();
            }
        }
        self.publish();
        for step in steps {
            match step {
                Step::Retire(_) => {}
                Step::Sweep(id) => self.sweep(id).await,
                Step::Adopt(id) => self.adopt(id, desired.get(&id)).await,
                Step::Create(id) => {
                    if let Some(wanted) = desired.get(&id) {
                        self.serve(id, wanted.clone(), Origin::New);
                    }
                }
            }
        }
        self.publish();
    }

    async fn observe(&self) -> Observed {
        let in_containerd = self.deps.launcher.in_containerd().await;
        let on_disk = self.deps.launcher.state().containers();
        Observed {
            driven: self.driven.keys().copied().collect(),
            in_containerd: listed("the containers of containerd", in_containerd)
                .map(|ids| ids.into_iter().collect()),
            on_disk: listed("the containers on disk", on_disk),
        }
    }

    async fn sweep(&self, id: ContainerId) {
        info!(container = %id, "nobody assigned it, removing what an earlier process left");
        // It may have been left alone before, see `adopt`.
        self.deps.reporter.remove(id);
        if self.deps.launcher.teardown(id).await {
            self.deps.launcher.release_ids(ids_key(id));
            // Whatever failed is logged, and found again by the next round.
            self.deps.launcher.delete(id).await;
        }
    }

    /// Goes on with what an earlier process left of an assigned slot; `wanted` if its definition is to be had.
    ///
    /// Its `slot.json` may be unreadable. It is not adopted without that file: of what the file says the assignment has
    /// only the definition; containerd has the process and its environment, but neither whether it has answered, nor of
    /// which image it was made, nor where executions begin; and a guess would send requests to a program that is not what
    /// was proven. So:
    ///
    /// - if the file is damaged or missing and its definition is known, it is started again, which costs a cold start.
    /// - if the definition is not known (its function has a newer revision), nothing could be started in its stead, so it is
    ///   not ended: it may be routed. Nor is it where the disk failed, which may pass. It is left alone, unserved: requests
    ///   are told to go elsewhere, and the deployer to deploy again, which replaces the slot. Each round reads the file again.
    async fn adopt(&mut self, id: ContainerId, wanted: Option<&Desired>) {
        let (unreadable, is_lost) = match self.deps.launcher.state().load_slot(id) {
            Ok(Some(saved)) => {
                self.deps.launcher.release_ids(ids_key(id));
                return self.serve(id, from_disk(&saved), Origin::Recovered(Box::new(saved)));
            }
            Ok(None) => ("nothing of it is saved".to_owned(), true),
            Err(error) => {
                let is_lost = matches!(error, StateError::Malformed { .. });
                (bismuth_base::chain(&error), is_lost)
            }
        };
        let Some(wanted) = wanted.filter(|_| is_lost) else {
            return self.leave_alone(id, &unreadable).await;
        };
        warn!(container = %id, reason = unreadable, "what is saved of it cannot be read, it is started again");
        if self.deps.launcher.teardown(id).await {
            self.deps.launcher.release_ids(ids_key(id));
        }
        self.serve(id, wanted.clone(), Origin::New);
    }

    /// Keeps the user ids of a container that is not served from other functions, and says once that it is not.
    async fn leave_alone(&self, id: ContainerId, unreadable: &str) {
        let reason = format!(
            "the node cannot adopt the container; deploy the function again to replace it: {unreadable}"
        );
        if let Some(pid) = self.program_of(id).await {
            self.keep_ids(id, pid);
        }
        let reporter = &self.deps.reporter;
        if reporter.get(id).and_then(|status| status.reason).as_ref() == Some(&reason) {
            return;
        }
        warn!(container = %id, reason, "left alone");
        let status = ContainerStatus {
            state: ContainerState::Failed,
            reason: Some(reason),
            ..ContainerStatus::assigned(now_ms())
        };
        reporter.report(id, status);
    }

    /// The process id of the container's program, if one runs and its shim says.
    async fn program_of(&self, id: ContainerId) -> Option<u32> {
        let tasks = self.deps.launcher.tasks().list_tasks().await;
        let id = id.to_string();
        let task = listed("the tasks of containerd", tasks)?
            .into_iter()
            .find(|task| task.id == id)?;
        let runs = !matches!(task.status, TaskStatus::Stopped(_) | TaskStatus::Created);
        (runs && task.pid != 0).then_some(task.pid)
    }

    /// Keeps the user ids of a container that is left alone from other functions. Its `slot.json` cannot say which they
    /// are, nor whose; they are kept under the container's own id.
    fn keep_ids(&self, id: ContainerId, pid: u32) {
        match bismuth_sandbox::process::host_root_id(pid) {
            Ok(host_start) => {
                let size = IdRange::SIZE;
                let range = IdRange { host_start, size };
                self.deps.launcher.reserve_ids(ids_key(id), range);
            }
            Err(error) => {
                warn!(container = %id, error = bismuth_base::chain(&error), "cannot find the user ids of a container");
            }
        }
    }

    fn serve(&mut self, id: ContainerId, wanted: Desired, origin: Origin) {
        if let Origin::Recovered(saved) = &origin {
            self.deps.launcher.recover_service_socket(id, saved);
        }
        let slot = Arc::new(Slot::new(
            id,
            wanted.function_id,
            wanted.revision,
            wanted.definition,
            self.deps.queue,
        ));
        let driver = Driver::new(
            Arc::clone(&slot),
            Arc::clone(&self.deps.launcher),
            self.deps.reporter.clone(),
            self.deps.bounds,
            wanted.created_ms,
        );
        let end = EndNotice(self.end.clone(), id);
        self.tasks
            .spawn(format!("container {id}"), Policy::BestEffort, async move {
                let _told_also_on_panic = end;
                driver.run(origin).await;
            });
        self.driven.insert(id, slot);
    }

    fn remove_driven(&mut self, id: ContainerId) {
        let Some(slot) = self.driven.remove(&id) else {
            return;
        };
        let function = slot.function_id;
        if !self.driven.values().any(|d| d.function_id == function) {
            self.deps.launcher.release_ids(function);
        }
        self.publish();
    }

    /// Retired slots are out of the table at once: requests for them are told to go elsewhere.
    fn publish(&self) {
        let serving = self
            .driven
            .iter()
            .filter(|(_, slot)| !slot.retired().is_cancelled());
        let table: HashMap<_, _> = serving.map(|(id, slot)| (*id, Arc::clone(slot))).collect();
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

/// What is assigned and can be started.
fn desired(assignment: &Assignment) -> BTreeMap<ContainerId, Desired> {
    let desired = assignment.containers.iter().map(|(id, assigned)| {
        let desired = Desired {
            function_id: assigned.function_id,
            revision: assigned.revision,
            definition: Arc::clone(&assigned.definition),
            created_ms: assigned.status_at_list.created_ms,
        };
        (*id, desired)
    });
    desired.collect()
}

/// Under which name the user ids of a container are kept whose function is not known.
fn ids_key(id: ContainerId) -> FunctionId {
    FunctionId::from_bytes(*id.as_bytes())
}

/// What a list has, if it is to be had.
fn listed<T>(of: &'static str, list: Result<T, impl std::error::Error + 'static>) -> Option<T> {
    list.map_err(|error| {
        warn!(error = bismuth_base::chain(&error), of, "cannot list");
    })
    .ok()
}

fn from_disk(saved: &SavedSlot) -> Desired {
    Desired {
        function_id: saved.function_id,
        revision: saved.revision,
        definition: Arc::clone(&saved.definition),
        created_ms: saved.created_ms,
    }
}

#[cfg(test)]
mod tests;
