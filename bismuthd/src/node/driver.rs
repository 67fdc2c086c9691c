//! The owner of one container: the only task that starts it, stops it and says how it does.
//!
//! ```text
//!                 Fresh            Remembered
//!                   │                  │ adopt ─────────────┐
//!                   ▼                  ▼ (does not run)     │
//!   ┌────────► bring up ◄─wanted─── Down                    │
//!   │              │ ok      failed                         │
//!   │              ▼           └──────────► Failed{until}   │
//!   │             Up ◄──────────────────────────────────────┘
//!   │              │ the process ended ───► Failed{until} ──┐
//!   └──────────────────── wanted, or min_instances ◄────────┘
//!
//!   any ── retired ─► drain ─► take down ─► forget ─► end
//! ```
//!
//! *Wanted* is by a request. A slot that has never run proves a deployment, and perhaps no request can come to it: if
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

use super::launch::{LaunchError, Launcher, Running, Start};
use super::slot::{Phase, Slot, StartFailure};
use super::state_dir::SavedSlot;
use super::status::StatusBoard;

/// DESIGN section 3: a failing container is tried again after 1 s at first, 60 s at most.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// A container that ran this long was well; its death is not a crash loop, and the next request
/// starts it at once.
const WELL: Duration = Duration::from_secs(10);
/// A teardown that failed is tried again after this; containerd or a shim may have hung.
const TEARDOWN_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// How long a retired container may take to end.
#[derive(Clone, Copy, Debug)]
pub struct StopBounds {
    /// For the requests inside, on top of which none are let in.
    pub drain: Duration,
    /// From SIGTERM to SIGKILL, for programs that handle SIGTERM.
    pub grace: Duration,
}

/// Where a driver begins.
#[derive(Debug)]
pub enum Begin {
    /// The slot is new: it is started once, to prove the definition.
    Fresh,
    /// An earlier process served it.
    Remembered(Box<SavedSlot>),
}

/// The owner of one container.
pub struct Driver {
    slot: Arc<Slot>,
    launcher: Arc<Launcher>,
    board: StatusBoard,
    bounds: StopBounds,
    created_ms: u64,
    delays: Delays,
}

enum State {
    Down,
    Up(Box<Running>),
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
        board: StatusBoard,
        bounds: StopBounds,
        created_ms: u64,
    ) -> Self {
        Self {
            slot,
            launcher,
            board,
            bounds,
            created_ms,
            delays: BACKOFF.delays(),
        }
    }

    /// Drives the container until it is retired and nothing is left of it.
    pub async fn run(mut self, begin: Begin) {
        let mut state = self.begin(begin).await;
        while !self.slot.retired().is_cancelled() {
            state = match state {
                State::Down => self.down().await,
                State::Up(running) => self.up(running).await,
                State::Failed(failure, next) => self.failed(failure, next).await,
            };
        }
        self.retire(state).await;
    }

    async fn begin(&mut self, begin: Begin) -> State {
        let saved = match begin {
            Begin::Remembered(saved) => saved,
            Begin::Fresh => {
                if let Err(error) = self.launcher.save(&self.slot, self.created_ms, None).await {
                    return self.start_failed(error, Purpose::Proof);
                }
                return self.bring_up(Purpose::Proof, None).await;
            }
        };
        self.launcher
            .reserve_ids(saved.function_id, saved.id_range());
        let proven = saved.run.as_ref().is_some_and(|run| run.proven);
        let adopted = self.launcher.adopt(&self.slot, &saved, self.slot.retired());
        match adopted.await {
            Some(running) if proven => self.now_up(running),
            Some(running) => self.now_proven(running).await,
            // It was proven once, so it may wait for a request, as after a reboot of the machine.
            None if proven && !self.keeps_warm() => {
                self.tell(ContainerState::Stopped, None, None);
                State::Down
            }
            None if proven => self.bring_up(Purpose::Serving, None).await,
            None => self.bring_up(Purpose::Proof, None).await,
        }
    }

    fn keeps_warm(&self) -> bool {
        self.slot.definition.min_instances > 0
    }

    async fn down(&mut self) -> State {
        self.slot.enter_phase(Phase::Down);
        tokio::select! {
            () = self.slot.retired().cancelled() => State::Down,
            () = self.slot.wanted() => self.bring_up(Purpose::Serving, None).await,
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
                () = self.slot.wanted() => {}
            }
        }
        let waits_for = (next == Purpose::Proof).then_some(failure.reason.as_str());
        self.bring_up(next, waits_for).await
    }

    async fn up(&mut self, running: Box<Running>) -> State {
        tokio::select! {
            () = self.slot.retired().cancelled() => State::Up(running),
            () = running.ended() => self.died(running).await,
        }
    }

    /// `waits_for` is why the last try failed, of a proof that is tried again: it is reported until there is news.
    async fn bring_up(&mut self, purpose: Purpose, waits_for: Option<&str>) -> State {
        if self.slot.retired().is_cancelled() {
            return State::Down;
        }
        let report = |state| {
            self.slot.enter_phase(Phase::Coming(state));
            self.slot.no_longer_wanted();
            self.tell(state, waits_for, None);
        };
        let start = Start {
            created_ms: self.created_ms,
            deployment: purpose == Purpose::Proof,
            cancelled: self.slot.retired(),
        };
        match self.launcher.start(&self.slot, start, &report).await {
            Ok(running) => self.now_proven(running).await,
            Err(LaunchError::Cancelled) => State::Down,
            Err(error) => self.start_failed(error, purpose),
        }
    }

    async fn now_proven(&self, running: Running) -> State {
        // Requests first: what is remembered is for a process that comes after this one.
        let state = self.now_up(running);
        if let Err(error) = self.launcher.save_proven(self.slot.container_id).await {
            warn!(
                container = %self.slot.container_id, error = bismuth_base::chain(&error),
                "cannot remember that the container answers; after a restart it is waited for again"
            );
        }
        state
    }

    fn now_up(&self, running: Running) -> State {
        info!(container = %self.slot.container_id, function = %self.slot.function_id, pid = running.pid(), "running");
        self.slot.enter_phase(Phase::Up(Arc::clone(&running.live)));
        self.tell(ContainerState::Running, None, Some(&running));
        State::Up(Box::new(running))
    }

    async fn died(&mut self, running: Box<Running>) -> State {
        let id = self.slot.container_id;
        // Requests must not wait for what follows: they are told at once that it is down.
        self.slot
            .enter_phase(Phase::Coming(ContainerState::Starting));
        let reason = self.launcher.exit_reason(id).await;
        let ran = Duration::from_millis(now_ms().saturating_sub(running.started_ms));
        let was_well = ran >= WELL;
        let failed = self.fail(LaunchError::Ended(reason), was_well, Purpose::Serving);
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

    /// `was_well`: its end is not one more failure in a row.
    fn fail(&mut self, error: LaunchError, was_well: bool, next: Purpose) -> State {
        let delay = if was_well {
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
        self.tell(state, Some(&failure.reason), None);
        self.slot.enter_phase(Phase::Failed(Arc::clone(&failure)));
        State::Failed(failure, next)
    }

    fn tell(&self, state: ContainerState, reason: Option<&str>, running: Option<&Running>) {
        let status = ContainerStatus {
            state,
            reason: reason.map(str::to_owned),
            ip: None,
            pid: running.map(Running::pid),
            created_ms: self.created_ms,
            started_ms: running.map(|r| r.started_ms),
            changed_ms: now_ms(),
        };
        self.board.tell(self.slot.container_id, status);
    }

    async fn retire(self, state: State) {
        let id = self.slot.container_id;
        let timeout = Duration::from_millis(self.slot.definition.timeout_ms);
        let bound = self.bounds.drain.min(timeout);
        if !self.slot.admission.close_when_empty(bound).await {
            warn!(container = %id, in_flight = self.slot.admission.in_flight(), "requests did not end in time, their container is taken down");
        }
        self.slot.enter_phase(Phase::Gone);
        self.board.forget(id);
        if let State::Up(running) = state {
            self.launcher
                .terminate(id, &running, self.bounds.grace)
                .await;
        }
        let mut delays = TEARDOWN_AGAIN.delays();
        while !(self.launcher.teardown(id).await && self.launcher.delete(id).await) {
            tokio::time::sleep(delays.next_delay()).await;
        }
        info!(container = %id, function = %self.slot.function_id, "removed");
    }
}

#[cfg(test)]
mod tests;
