//! A slot as requests see it: may I enter, and does it answer?
//!
//! ```text
//!            ┌────────── a request wakes the driver ──────────┐
//!            ▼                                                │
//!  Down ─► Coming ─► Up(Live) ─► Failed { until } ─ later ─► Coming …        any ─► Gone
//! ```
//!
//! The driver of the container is the only writer of its [`Phase`]; the workers read it. A
//! thousand requests that wait for one container wait for one change of one `watch`, or for the slot to be
//! [retired](Slot::retire): then they go elsewhere at once, whatever the driver is doing.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bismuth_model::{ContainerId, ContainerState, FunctionDefinition, FunctionId, Revision};
use bismuth_sandbox::namespaces::Namespaces;
use http::StatusCode;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::program::Program;
use crate::logs::pump::PrintingEnd;
use crate::svcprovider::SecretEnv;

/// One container that this node has agreed to serve.
#[derive(Debug)]
pub struct Slot {
    /// Its id, here, in ZooKeeper and in containerd.
    pub container_id: ContainerId,
    /// The function it serves.
    pub function_id: FunctionId,
    /// The revision of the definition.
    pub revision: Revision,
    /// That definition.
    pub definition: Arc<FunctionDefinition>,
    /// Its door.
    pub admission: Admission,
    phase: watch::Sender<Phase>,
    wanted: Notify,
    retired: CancellationToken,
}

/// What a request finds.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Not running, nothing is wrong.
    Down,
    /// On its way: being pulled or started.
    Coming(ContainerState),
    /// Answers.
    Up(Arc<Live>),
    /// Could not be started, or died.
    Failed(Arc<StartFailure>),
    /// Taken down for good.
    Gone,
}

/// Why a container does not run, in words for its deployer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// What a request gets: 502, 503 or 504.
    pub status: StatusCode,
    /// A word for programs, such as `start_failed`.
    pub code: &'static str,
    /// What happened, with the last lines that the program printed.
    pub reason: String,
    /// Not before this moment is it tried again.
    pub until: Instant,
}

/// A running container, with all that is needed to send a request into it.
#[derive(Debug)]
pub struct Live {
    /// Different for each start, in this process: keys pooled connections.
    pub incarnation: u64,
    /// Its namespaces; requests come in over the loopback of the network namespace.
    pub namespaces: Namespaces,
    /// How requests reach the program.
    pub target: Target,
    /// The image it was made of.
    pub image_digest: String,
    first_connection: Mutex<Option<FirstConnection>>,
}

/// Accepted by the program, and nothing was sent on it yet.
#[derive(Debug)]
struct FirstConnection {
    stream: TcpStream,
    made: Instant,
}

/// How old the first connection may be: as idle ones of the pool. Programs close connections that say nothing.
const FIRST_CONNECTION_LIFE: Duration = Duration::from_millis(1500);

/// How requests reach the program.
#[derive(Debug)]
pub enum Target {
    /// HTTP on this port of the container's loopback.
    Server {
        /// The port.
        port: u16,
    },
    /// One process per request, spawned by bismuth-init.
    Exec(Box<ExecTarget>),
}

/// What an execution needs.
#[derive(Debug)]
pub struct ExecTarget {
    /// The socket of bismuth-init.
    pub socket: PathBuf,
    /// What it runs.
    pub program: Program,
    /// User and group inside the container.
    pub user: (u32, u32),
    /// Further groups inside the container.
    pub groups: Vec<u32>,
    /// What each execution is to have in its environment besides; `None` if bismuth-init sees to it.
    pub secrets: Option<SecretEnv>,
    /// Where its standard error goes: the container's log.
    pub stderr: PrintingEnd,
}

impl Live {
    /// A running container. `first_connection` is the one that proved that it answers.
    pub fn new(
        namespaces: Namespaces,
        target: Target,
        image_digest: String,
        first_connection: Option<TcpStream>,
    ) -> Self {
        static INCARNATIONS: AtomicU64 = AtomicU64::new(1);
        Self {
            incarnation: INCARNATIONS.fetch_add(1, Ordering::Relaxed),
            namespaces,
            target,
            image_digest,
            first_connection: Mutex::new(first_connection.map(|stream| FirstConnection {
                stream,
                made: Instant::now(),
            })),
        }
    }

    /// The connection that proved that the program answers, for the first request that asks while it is young.
    pub fn take_first_connection(&self) -> Option<TcpStream> {
        let mut first = self
            .first_connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let first = first.take()?;
        (first.made.elapsed() < FIRST_CONNECTION_LIFE).then_some(first.stream)
    }
}

/// Why a request found no running container.
#[derive(Clone, Debug)]
pub enum NotUp {
    /// It could not be started, or died a moment ago.
    Failed(Arc<StartFailure>),
    /// It did not come up while the request waited; the state it was in.
    StillComing(ContainerState),
    /// It was taken down.
    Gone,
}

impl Slot {
    /// A slot that is down.
    pub fn new(
        container_id: ContainerId,
        function_id: FunctionId,
        revision: Revision,
        definition: Arc<FunctionDefinition>,
        queue: usize,
    ) -> Self {
        Self {
            container_id,
            function_id,
            revision,
            admission: Admission::new(definition.concurrency, queue),
            definition,
            phase: watch::Sender::new(Phase::Down),
            wanted: Notify::new(),
            retired: CancellationToken::new(),
        }
    }

    /// Takes the slot out of service for good, because it is no longer assigned: who waits for a start is sent
    /// elsewhere at once, who is inside the running container may finish, and its driver takes the container down.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// Cancelled when the slot is retired.
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// The running container at once, if it runs.
    pub fn live(&self) -> Option<Arc<Live>> {
        match &*self.phase.borrow() {
            Phase::Up(live) => Some(Arc::clone(live)),
            _ => None,
        }
    }

    /// The running container, started if it must be. Waits at most `bound`, and not at all once the slot is
    /// retired. Cancel safe.
    pub async fn bring_up(&self, bound: Duration) -> Result<Arc<Live>, NotUp> {
        let mut phases = self.phase.subscribe();
        let wait = async {
            loop {
                match &*phases.borrow_and_update() {
                    Phase::Up(live) => return Ok(Arc::clone(live)),
                    // Nobody starts it any more, so no later phase is to be waited for.
                    _ if self.retired.is_cancelled() => return Err(NotUp::Gone),
                    Phase::Gone => return Err(NotUp::Gone),
                    Phase::Failed(failure) if Instant::now() < failure.until => {
                        return Err(NotUp::Failed(Arc::clone(failure)));
                    }
                    Phase::Down | Phase::Failed(_) => self.wanted.notify_one(),
                    Phase::Coming(_) => {}
                }
                tokio::select! {
                    // The sender is the slot's own.
                    _ = phases.changed() => {}
                    () = self.retired.cancelled() => {}
                }
            }
        };
        match tokio::time::timeout(bound, wait).await {
            Ok(result) => result,
            Err(_elapsed) => Err(self.what_it_waits_for()),
        }
    }

    /// Why this start of the container has ended, if it has or does within a moment; `None` if it
    /// still runs. `bound` limits the waiting for the details, not for the fact.
    pub async fn why_it_ended(&self, incarnation: u64, bound: Duration) -> Option<NotUp> {
        // A death is known within 100 ms even on a busy machine, but after the connection that it broke.
        const NOTICE: Duration = Duration::from_millis(100);
        let mut phases = self.phase.subscribe();
        let runs =
            |phase: &Phase| matches!(phase, Phase::Up(live) if live.incarnation == incarnation);
        let still_runs = tokio::time::timeout(NOTICE, phases.wait_for(|phase| !runs(phase)))
            .await
            .is_err();
        if still_runs {
            return None;
        }
        let told = phases.wait_for(|phase| matches!(phase, Phase::Failed(_) | Phase::Gone));
        match tokio::time::timeout(bound, told).await.ok()?.ok()?.clone() {
            Phase::Failed(failure) => Some(NotUp::Failed(failure)),
            _ => Some(NotUp::Gone),
        }
    }

    fn what_it_waits_for(&self) -> NotUp {
        match &*self.phase.borrow() {
            Phase::Coming(state) => NotUp::StillComing(*state),
            Phase::Failed(failure) => NotUp::Failed(Arc::clone(failure)),
            Phase::Gone => NotUp::Gone,
            Phase::Down | Phase::Up(_) => NotUp::StillComing(ContainerState::Starting),
        }
    }

    /// The driver's side: what requests find from now on.
    pub(crate) fn enter_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The driver's side: returns when a request wants the container. Cancel safe: a wish that
    /// nobody waited for is kept.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The driver's side: a start begins, so the wishes of all who wait are being fulfilled. Without this one that
    /// came beside another would start the container once more after its end.
    pub(crate) fn no_longer_wanted(&self) {
        let wish = std::pin::pin!(self.wanted.notified());
        // Takes the permit if there is one. Nobody else waits for it: there is one driver.
        let _ = futures_util::FutureExt::now_or_never(wish);
    }

    /// The driver's side: what requests find now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        let definition = FunctionDefinition::new("a".parse().unwrap(), "exec:a".parse().unwrap());
        Slot::new(
            ContainerId::new_random(),
            FunctionId::new_random(),
            Revision::FIRST,
            Arc::new(definition),
            10,
        )
    }

    fn failure(until: Instant) -> Phase {
        Phase::Failed(Arc::new(StartFailure {
            status: StatusCode::BAD_GATEWAY,
            code: "start_failed",
            reason: "it died".into(),
            until,
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_wakes_the_driver_once_and_waits_within_its_bound() {
        let slot = slot();
        let waited = slot.bring_up(Duration::from_secs(3));
        assert!(matches!(waited.await, Err(NotUp::StillComing(_))));
        slot.wanted().await;
        let again = tokio::time::timeout(Duration::from_secs(1), slot.wanted());
        assert!(again.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_wishes_none_is_left_once_a_start_has_begun() {
        let slot = slot();
        let (mut one, mut two) = (
            Box::pin(slot.bring_up(Duration::from_secs(9))),
            Box::pin(slot.bring_up(Duration::from_secs(9))),
        );
        assert!(futures_util::poll!(&mut one).is_pending());
        slot.wanted().await;
        assert!(futures_util::poll!(&mut two).is_pending());
        slot.enter_phase(Phase::Coming(ContainerState::Starting));
        slot.no_longer_wanted();
        let again = tokio::time::timeout(Duration::from_secs(1), slot.wanted());
        assert!(again.await.is_err());
    }

    #[tokio::test]
    async fn retiring_sends_those_elsewhere_at_once_who_wait_for_a_start() {
        for phase in [Phase::Down, Phase::Coming(ContainerState::Starting)] {
            let slot = slot();
            slot.enter_phase(phase);
            let mut waiting = Box::pin(slot.bring_up(Duration::from_secs(60)));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            slot.retire();
            assert!(matches!(
                futures_util::poll!(&mut waiting),
                std::task::Poll::Ready(Err(NotUp::Gone))
            ));
            let later = slot.bring_up(Duration::from_secs(60));
            assert!(matches!(later.await, Err(NotUp::Gone)));
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_at_once_until_its_backoff_ends() {
        let slot = slot();
        slot.enter_phase(failure(Instant::now() + Duration::from_secs(60)));
        let told = slot.bring_up(Duration::from_secs(60)).await;
        assert!(matches!(told, Err(NotUp::Failed(f)) if f.reason == "it died"));
        slot.enter_phase(failure(Instant::now()));
        let mut waiting = Box::pin(slot.bring_up(Duration::from_secs(60)));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        slot.enter_phase(Phase::Gone);
        assert!(matches!(waiting.await, Err(NotUp::Gone)));
    }
}
