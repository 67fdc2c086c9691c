//! Drives one container: the only task that starts it, stops it and reports its status.
//!
//! ```text
//!                  New             Recovered
//!                   │                  │ adopt ─────────────┐
//!                   ▼                  ▼ (does not run)     │
//!   ┌────────────► start ◄─request─ Stopped                 │
//!   │              │ ok      failed                         │
//!   │              ▼           └──────────► Failed{until}   │
//!   │           Running ◄───────────────────────────────────┘
//!   │              │ the process ended ───► Failed{until} ──┐
//!   └───────────────── request, or min_instances ◄──────────┘
//!
//!   any ── retired ─► drain ─► teardown ─► delete ─► end
//! ```
//!
//! A slot that has never run proves a deployment, and perhaps no request can come to it: if
//! its start fails for a reason that may pass (the registry is away, containerd restarts, the node is exhausted), the
//! driver tries again by itself. Until it is known how that ends, the slot is reported as `Starting`, with the reason,
//! and not as `Failed`: that would be the verdict on the deployment. A rollout that waits for it gives up by its own
//! deadline; the driver does not, as long as the slot is assigned.
//!
//! Starts are single-flight because this is one task. A start is never dropped half-way: when the
//! slot is retired meanwhile the start is cancelled and awaited, so that what it made is undone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bismuth_base::{Backoff, Delays, now_ms};
use bismuth_model::{ContainerState, ContainerStatus};
use tracing::{info, warn};

use super::launch::{LaunchError, Launcher, RunningContainer, StartOptions};
use super::slot::{Phase, Slot, StartFailure};
use super::state_dir::SavedSlot;
use super::status::StatusReporter;

/// A failing container is tried again after 1 s at first, 60 s at most.
const START_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A container that ran this long was stable; its death is not a crash loop, and the next request
/// starts it at once.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// A teardown that failed is tried again after this; containerd or a shim may have hung.
const TEARDOWN_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// How long a retired container may take to end.
#[derive(Clone, Copy, Debug)]
pub struct StopBounds {
    /// For the requests in flight; no other is admitted.
    pub drain: Duration,
    /// From SIGTERM to SIGKILL, for programs that handle SIGTERM.
    pub grace: Duration,
}

/// Where a slot comes from.
#[derive(Debug)]
pub enum Origin {
    /// The slot is new: it is started once, to prove the definition.
    New,
    /// An earlier process served it.
    Recovered(Box<SavedSlot>),
}

/// Owns one container.
pub struct Driver {
    slot: Arc<Slot>,
    launcher: Arc<Launcher>,
    reporter: StatusReporter,
    bounds: StopBounds,
    created_ms: u64,
    delays: Delays,
}

enum State {
    Stopped,
    Running(Box<RunningContainer>),
    /// With what the next start is for.
    Failed(Arc<StartFailure>, Purpose),
}

/// What a start is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To prove a deployment. After a failure that may pass it is tried again by itself.
    Proof,
    /// To serve requests. It begins when one comes, or by itself where instances are to be kept running.
    Serving,
}

impl Driver {
    /// A driver for `slot`, which ends after that is retired.
    pub fn new(
        slot: Arc<Slot>,
        launcher: Arc<Launcher>,
        reporter: StatusReporter,
        bounds: StopBounds,
        created_ms: u64,
    ) -> Self {
        Self {
            slot,
            launcher,
            reporter,
            bounds,
            created_ms,
            delays: START_BACKOFF.delays(),
        }
    }

    /// Drives the container until it is retired and nothing is left of it.
    pub async fn run(mut self, origin: Origin) {
        let mut state = self.first_state(origin).await;
        while !self.slot.retired().is_cancelled() {
            state = match state {
                State::Stopped => self.stopped().await,
                State::Running(running) => self.running(running).await,
                State::Failed(failure, next) => self.failed(failure, next).await,
            };
        }
        self.retire(state).await;
    }

    async fn first_state(&mut self, origin: Origin) -> State {
        let saved = match origin {
            Origin::Recovered(saved) => saved,
            Origin::New => {
                if let Err(error) = self.launcher.save(&self.slot, self.created_ms, None).await {
                    return self.start_failed(error, Purpose::Proof);
                }
                return self.start(Purpose::Proof, None).await;
            }
        };
        self.launcher
            .reserve_ids(saved.function_id, saved.id_range());
        let proven = saved.run.as_ref().is_some_and(|run| run.proven);
        let adopted = self.launcher.adopt(&self.slot, &saved, self.slot.retired());
        match adopted.await {
            Some(running) if proven => self.enter_running(running),
            Some(running) => self.enter_proven(running).await,
            // It was proven once, so it may wait for a request, as after a reboot of the machine.
            None if proven && !self.keeps_warm() => {
                self.report(ContainerState::Stopped, None, None);
                State::Stopped
            }
            None if proven => self.start(Purpose::Serving, None).await,
            None => self.start(Purpose::Proof, None).await,
        }
    }

    fn keeps_warm(&self) -> bool {
        self.slot.definition.min_instances > 0
    }

    async fn stopped(&mut self) -> State {
        self.slot.enter_phase(Phase::Stopped);
        tokio::select! {
            () = self.slot.retired().cancelled() => State::Stopped,
            () = self.slot.start_requested() => self.start(Purpose::Serving, None).await,
        }
    }

    async fn failed(&mut self, failure: Arc<StartFailure>, next: Purpose) -> State {
        let until = tokio::time::Instant::from_std(failure.until);
        tokio::select! {
            () = self.slot.retired().cancelled() => return State::Failed(failure, next),
            // Requests are refused until then, so none can want it earlier.
            () = tokio::time::sleep_until(until) => {}
        }
        if next == Purpose::Serving && !self.keeps_warm() {
            tokio::select! {
                () = self.slot.retired().cancelled() => return State::Failed(failure, next),
                () = self.slot.start_requested() => {}
            }
        }
        let waits_for = (next == Purpose::Proof).then_some(failure.reason.as_str());
        self.start(next, waits_for).await
    }

    async fn running(&mut self, running: Box<RunningContainer>) -> State {
        tokio::select! {
            () = self.slot.retired().cancelled() => State::Running(running),
            () = running.ended() => self.died(running).await,
        }
    }

    /// `waits_for` is why the last try failed, of a proof that is tried again: it is reported until there is news.
    async fn start(&mut self, purpose: Purpose, waits_for: Option<&str>) -> State {
        if self.slot.retired().is_cancelled() {
            return State::Stopped;
        }
        let report = |state| {
            self.slot.enter_phase(Phase::Starting(state));
            self.slot.clear_start_request();
            self.report(state, waits_for, None);
        };
        let start = StartOptions {
            created_ms: self.created_ms,
            deployment: purpose == Purpose::Proof,
            cancelled: self.slot.retired(),
        };
        match self.launcher.start(&self.slot, start, &report).await {
            Ok(running) => self.enter_proven(running).await,
            Err(LaunchError::Cancelled) => State::Stopped,
            Err(error) => self.start_failed(error, purpose),
        }
    }

    async fn enter_proven(&self, running: RunningContainer) -> State {
        // Requests first: what is saved is for a process that comes after this one.
        let state = self.enter_running(running);
        if let Err(error) = self.launcher.save_proven(self.slot.container_id).await {
            warn!(
                container = %self.slot.container_id, error = bismuth_base::chain(&error),
                "cannot save that the container answers; after a restart it is waited for again"
            );
        }
        state
    }

    fn enter_running(&self, running: RunningContainer) -> State {
        info!(container = %self.slot.container_id, function = %self.slot.function_id, pid = running.pid(), "running");
        self.slot
            .enter_phase(Phase::Ready(Arc::clone(&running.endpoint)));
        self.report(ContainerState::Running, None, Some(&running));
        State::Running(Box::new(running))
    }

    async fn died(&mut self, running: Box<RunningContainer>) -> State {
        let id = self.slot.container_id;
        // Requests must not wait for what follows: they are told at once that it is down.
        self.slot
            .enter_phase(Phase::Starting(ContainerState::Starting));
        let reason = self.launcher.exit_reason(id).await;
        let ran = Duration::from_millis(now_ms().saturating_sub(running.started_ms));
        let was_stable = ran >= STABLE_AFTER;
        let failed = self.fail(LaunchError::Ended(reason), was_stable, Purpose::Serving);
        running.teardown().await;
        failed
    }

    fn start_failed(&mut self, error: LaunchError, purpose: Purpose) -> State {
        let next = match purpose {
            Purpose::Proof if error.is_transient() => Purpose::Proof,
            _ => Purpose::Serving,
        };
        self.fail(error, false, next)
    }

    /// `was_stable`: its end is not one more failure in a row.
    fn fail(&mut self, error: LaunchError, was_stable: bool, next: Purpose) -> State {
        let delay = if was_stable {
            self.delays.reset();
            Duration::ZERO
        } else {
            self.delays.next_delay()
        };
        let failure = Arc::new(error.into_failure(Instant::now() + delay));
        warn!(
            container = %self.slot.container_id, function = %self.slot.function_id,
            reason = failure.reason, again_in_ms = delay.as_millis() as u64, "failed"
        );
        let state = match next {
            Purpose::Proof => ContainerState::Starting,
            Purpose::Serving => ContainerState::Failed,
        };
        self.report(state, Some(&failure.reason), None);
        self.slot.enter_phase(Phase::Failed(Arc::clone(&failure)));
        State::Failed(failure, next)
    }

    fn report(
        &self,
        state: ContainerState,
        reason: Option<&str>,
        running: Option<&RunningContainer>,
    ) {
        let status = ContainerStatus {
            state,
            reason: reason.map(str::to_owned),
            ip: None,
            pid: running.map(RunningContainer::pid),
            created_ms: self.created_ms,
            started_ms: running.map(|r| r.started_ms),
            changed_ms: now_ms(),
        };
        self.reporter.report(self.slot.container_id, status);
    }

    async fn retire(self, state: State) {
        let id = self.slot.container_id;
        let timeout = Duration::from_millis(self.slot.definition.timeout_ms);
        let bound = self.bounds.drain.min(timeout);
        if !self.slot.admission.close_when_empty(bound).await {
            warn!(container = %id, in_flight = self.slot.admission.in_flight(), "requests did not end in time, their container is taken down");
        }
        self.slot.enter_phase(Phase::Removed);
        self.reporter.remove(id);
        if let State::Running(running) = state {
            self.launcher
                .terminate(id, &running, self.bounds.grace)
                .await;
        }
        let mut delays = TEARDOWN_BACKOFF.delays();
        while !(self.launcher.teardown(id).await && self.launcher.delete(id).await) {
            tokio::time::sleep(delays.next_delay()).await;
        }
        info!(container = %id, function = %self.slot.function_id, "removed");
    }
}

#[cfg(test)]
mod tests;
