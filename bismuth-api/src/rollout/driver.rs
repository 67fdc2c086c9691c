//! One function's rollout: look, plan, act, wait, until nothing is left to do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bismuth_base::{Backoff, Delays, chain, now_ms};
use bismuth_model::{ContainerId, FunctionId, Revision, RevisionFate};
use bismuth_registry::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use super::plan::{Observed, Plan, Step, Wait, plan};

/// A hint may be lost; the waits are minutes, so this is soon.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A step was refused because something changed, or ZooKeeper does not answer.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What wakes a driver.
#[derive(Debug, Default)]
pub(super) struct Wake {
    notify: Notify,
    slots: Mutex<BTreeSet<ContainerId>>,
}

impl Wake {
    pub(super) fn now(&self) {
        self.notify.notify_one();
    }

    /// Wakes the driver if the slot is one of its function's.
    pub(super) fn slot_changed(&self, container: ContainerId) {
        if self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&container)
        {
            self.now();
        }
    }

    fn listen_to(&self, observed: &Observed) {
        let slots = observed
            .slots
            .iter()
            .map(|(slot, _)| slot.container_id)
            .collect();
        *self.slots.lock().unwrap_or_else(PoisonError::into_inner) = slots;
    }
}

/// How a driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DriverEnd {
    /// Nothing is left to do.
    Finished,
    /// The leader's term is over.
    TermLost,
    /// A fault of this program.
    Panicked,
}

/// Drives one function.
pub(super) struct Driver {
    id: FunctionId,
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    /// When a slot was first seen without requests being routed to it.
    unrouted: HashMap<ContainerId, Instant>,
    delays: Delays,
    announced: Option<Revision>,
}

impl Driver {
    pub(super) fn new(id: FunctionId, shared: Arc<Shared>, wake: Arc<Wake>) -> Self {
        Self {
            id,
            shared,
            wake,
            unrouted: HashMap::new(),
            delays: RETRY.delays(),
            announced: None,
        }
    }

    /// Until nothing is left to do, or the term is over.
    pub(super) async fn run(mut self) -> DriverEnd {
        loop {
            let wait = match self.round().await {
                Ok(Next::Finished) => return DriverEnd::Finished,
                Ok(Next::Wait(wait)) => {
                    self.delays.reset();
                    wait
                }
                Ok(Next::Again) => continue,
                Err(error @ Error::TermLost { .. }) => {
                    tracing::info!(function = %self.id, error = chain(&error), "the rollout is left to the next leader");
                    return DriverEnd::TermLost;
                }
                Err(error) => {
                    tracing::warn!(function = %self.id, error = chain(&error), "the rollout is held up; trying again");
                    // Not woken by hints: whatever refused must not be asked in a circle.
                    tokio::time::sleep(self.delays.next_delay()).await;
                    continue;
                }
            };
            // Safe to cancel: a permit that was not taken stays.
            tokio::select! {
                () = self.wake.notify.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn round(&mut self) -> Result<Next, Error> {
        let Some(observed) = self.observe().await? else {
            return Ok(Next::Finished);
        };
        self.wake.listen_to(&observed);
        self.see_unrouted(&observed);
        let settle = self.shared.settle;
        let settled = |container| {
            self.unrouted
                .get(&container)
                .is_some_and(|since| since.elapsed() >= settle)
        };
        let plan = plan(&observed, now_ms(), settled);
        self.announce(&observed, &plan);
        if plan.is_finished() {
            return Ok(Next::Finished);
        }
        if plan.steps.is_empty() {
            return Ok(Next::Wait(self.until_next(&plan)));
        }
        for step in plan.steps {
            self.act(&observed, step).await?;
        }
        Ok(Next::Again)
    }

    async fn observe(&self) -> Result<Option<Observed>, Error> {
        let registry = &self.shared.registry;
        let Some(deployment) = registry.deployment(self.id).await? else {
            return Ok(None);
        };
        let (function, routed) = (&deployment.wanted, deployment.backends());
        // After the function: its slots were made in the same transaction, so none is missed.
        let slots = registry.function_containers(self.id).await?;
        let newest = registry.revision(self.id, function.revision).await?;
        // Of an earlier version's, whose fate nobody recorded, nothing is to be recorded.
        let fate = newest.map_or(RevisionFate::Proven, |newest| newest.fate);
        Ok(Some(Observed::new(function, routed, slots, fate)))
    }

    fn see_unrouted(&mut self, observed: &Observed) {
        let left_over: BTreeSet<ContainerId> =
            observed.left_over().map(|slot| slot.container_id).collect();
        self.unrouted
            .retain(|container, _| left_over.contains(container));
        for container in left_over {
            self.unrouted.entry(container).or_insert_with(Instant::now);
        }
    }

    async fn act(&self, observed: &Observed, step: Step) -> Result<(), Error> {
        let (registry, metrics) = (&self.shared.registry, &self.shared.metrics);
        match step {
            Step::Switch(backends) => {
                // Nobody looks at their fate once another revision serves.
                for revision in observed.served_and_ran() {
                    let proven = RevisionFate::Proven;
                    registry.record_fate(self.id, revision, proven).await?;
                }
                registry.switch_backends(self.id, &backends).await?;
                metrics.switched.inc();
                tracing::info!(function = %self.id, backends = backends.len(), "requests go to the newest revision");
            }
            Step::Record(fate) => {
                let revision = observed.revision;
                tracing::info!(function = %self.id, %revision, ?fate, "what became of the revision is recorded");
                registry.record_fate(self.id, revision, fate).await?;
            }
            Step::Release(slot) => {
                match registry.release_container(slot.ip, slot.container_id).await {
                    Ok(()) => {
                        metrics.released.inc();
                        tracing::info!(function = %self.id, container = %slot.container_id, node = %slot.ip, "an old slot was released");
                    }
                    // Somebody else did it.
                    Err(Error::ContainerUnknown { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    fn until_next(&self, plan: &Plan) -> Duration {
        let settled = self
            .unrouted
            .values()
            .map(|since| (*since + self.shared.settle).saturating_duration_since(Instant::now()));
        let next = plan.waits.iter().filter_map(|wait| match wait {
            Wait::Settle => settled.clone().min(),
            Wait::Proof { until_ms } => {
                Some(Duration::from_millis(until_ms.saturating_sub(now_ms())))
            }
        });
        next.min().unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN)
    }

    /// Says once that a revision is being waited for.
    fn announce(&mut self, observed: &Observed, plan: &Plan) {
        let waits = plan
            .waits
            .iter()
            .any(|wait| matches!(wait, Wait::Proof { .. }));
        if waits && self.announced != Some(observed.revision) {
            self.announced = Some(observed.revision);
            tracing::info!(function = %self.id, revision = %observed.revision, "waiting for the newest revision to run");
        }
    }
}

/// What follows a round.
enum Next {
    Finished,
    Again,
    Wait(Duration),
}
