//! The slot of one container, as requests see it: its phase, its admission, and how to wait until it is ready.
//!
//! ```text
//!               ┌────────── a request asks for a start ──────────────┐
//!               ▼                                                    │
//!  Stopped ─► Starting ─► Ready(endpoint) ─► Failed { until } ─ later ─► Starting …        any ─► Removed
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
use crate::logs::copier::StderrFifo;
use crate::svcprovider::SecretEnv;

/// One container that this node has agreed to serve.
#[derive(Debug)]
pub struct Slot {
    /// Its id, here, in ZooKeeper and in containerd.
    pub container_id: ContainerId,
    pub function_id: FunctionId,
    pub revision: Revision,
    pub definition: Arc<FunctionDefinition>,
    /// Its limit of concurrent requests, and their queue.
    pub admission: Admission,
    phase: watch::Sender<Phase>,
    start_requested: Notify,
    retired: CancellationToken,
}

/// What a request finds of the container.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Not running, nothing is wrong.
    Stopped,
    /// Its image is being pulled, or it is being started.
    Starting(ContainerState),
    /// It answers.
    Ready(Arc<ContainerEndpoint>),
    /// Could not be started, or died.
    Failed(Arc<StartFailure>),
    /// Taken down for good.
    Removed,
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

/// Where requests reach a running container: what is needed to send one into it.
#[derive(Debug)]
pub struct ContainerEndpoint {
    /// Numbers the starts of containers in this process: the key of pooled connections.
    pub start_id: u64,
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
    Server { port: u16 },
    /// One process per request, spawned by bismuth-init.
    Exec(Box<ExecTarget>),
}

/// What an execution needs.
#[derive(Debug)]
pub struct ExecTarget {
    pub socket: PathBuf,
    pub program: Program,
    /// User and group inside the container.
    pub user: (u32, u32),
    /// Further groups inside the container.
    pub groups: Vec<u32>,
    /// What each execution is to have in its environment besides; `None` if bismuth-init sees to it.
    pub secrets: Option<SecretEnv>,
    /// Where its standard error goes: the container's log.
    pub stderr: StderrFifo,
}

impl ContainerEndpoint {
    /// A running container. `first_connection` is the one that proved that it answers.
    pub fn new(
        namespaces: Namespaces,
        target: Target,
        image_digest: String,
        first_connection: Option<TcpStream>,
    ) -> Self {
        static START_IDS: AtomicU64 = AtomicU64::new(1);
        Self {
            start_id: START_IDS.fetch_add(1, Ordering::Relaxed),
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
pub enum NotReady {
    /// It could not be started, or died a moment ago.
    Failed(Arc<StartFailure>),
    /// It did not become ready while the request waited; the state it was in.
    StillStarting(ContainerState),
    Removed,
}

impl Slot {
    /// A slot whose container does not run yet.
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
            phase: watch::Sender::new(Phase::Stopped),
            start_requested: Notify::new(),
            retired: CancellationToken::new(),
        }
    }

    /// Takes the slot out of service for good, because it is no longer assigned: requests that wait for a start are sent
    /// elsewhere at once, requests in flight may finish, and its driver takes the container down.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// Cancelled when the slot is retired.
    pub fn retired(&self) -> &CancellationToken {
        &self.retired
    }

    /// The running container at once, if it runs.
    pub fn endpoint(&self) -> Option<Arc<ContainerEndpoint>> {
        match &*self.phase.borrow() {
            Phase::Ready(endpoint) => Some(Arc::clone(endpoint)),
            _ => None,
        }
    }

    /// The running container, started if it must be. Waits at most `bound`, and not at all once the slot is
    /// retired. Cancel safe.
    pub async fn ensure_ready(&self, bound: Duration) -> Result<Arc<ContainerEndpoint>, NotReady> {
        let mut phases = self.phase.subscribe();
        let wait = async {
            loop {
                match &*phases.borrow_and_update() {
                    Phase::Ready(endpoint) => return Ok(Arc::clone(endpoint)),
                    // Nobody starts it any more, so no later phase is to be waited for.
                    _ if self.retired.is_cancelled() => return Err(NotReady::Removed),
                    Phase::Removed => return Err(NotReady::Removed),
                    Phase::Failed(failure) if Instant::now() < failure.until => {
                        return Err(NotReady::Failed(Arc::clone(failure)));
                    }
                    Phase::Stopped | Phase::Failed(_) => self.start_requested.notify_one(),
                    Phase::Starting(_) => {}
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
            Err(_elapsed) => Err(self.not_ready_yet()),
        }
    }

    /// Why this start of the container has ended, if it has or does within a moment; `None` if it
    /// still runs. `bound` limits the waiting for the details, not for the fact.
    pub async fn end_reason(&self, start_id: u64, bound: Duration) -> Option<NotReady> {
        // A death is known within 100 ms even on a busy machine, but after the connection that it broke.
        const NOTICE: Duration = Duration::from_millis(100);
        let mut phases = self.phase.subscribe();
        let runs = |phase: &Phase| matches!(phase, Phase::Ready(endpoint) if endpoint.start_id == start_id);
        let still_runs = tokio::time::timeout(NOTICE, phases.wait_for(|phase| !runs(phase)))
            .await
            .is_err();
        if still_runs {
            return None;
        }
        let told = phases.wait_for(|phase| matches!(phase, Phase::Failed(_) | Phase::Removed));
        match tokio::time::timeout(bound, told).await.ok()?.ok()?.clone() {
            Phase::Failed(failure) => Some(NotReady::Failed(failure)),
            _ => Some(NotReady::Removed),
        }
    }

    fn not_ready_yet(&self) -> NotReady {
        match &*self.phase.borrow() {
            Phase::Starting(state) => NotReady::StillStarting(*state),
            Phase::Failed(failure) => NotReady::Failed(Arc::clone(failure)),
            Phase::Removed => NotReady::Removed,
            Phase::Stopped | Phase::Ready(_) => NotReady::StillStarting(ContainerState::Starting),
        }
    }

    /// The driver's side: what requests find from now on.
    pub(crate) fn enter_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// The driver's side: returns when a request wants the container. Cancel safe: a request for a start that
    /// nobody waited for is kept.
    pub(crate) async fn start_requested(&self) {
        self.start_requested.notified().await;
    }

    /// The driver's side: a start begins, so all who wait are served by it. Without this a request for a start that
    /// came beside another would start the container once more after its end.
    pub(crate) fn clear_start_request(&self) {
        let requested = std::pin::pin!(self.start_requested.notified());
        // Takes the permit if there is one. Nobody else waits for it: there is one driver.
        let _ = futures_util::FutureExt::now_or_never(requested);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::fakes::slot;

    fn failure(until: Instant) -> Phase {
        Phase::Failed(Arc::new(StartFailure {
            status: StatusCode::BAD_GATEWAY,
            code: "start_failed",
            reason: "it died".into(),
            until,
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_asks_for_one_start_and_waits_no_longer_than_its_bound() {
        let slot = slot();
        let waited = slot.ensure_ready(Duration::from_secs(3));
        assert!(matches!(waited.await, Err(NotReady::StillStarting(_))));
        slot.start_requested().await;
        let again = tokio::time::timeout(Duration::from_secs(1), slot.start_requested());
        assert!(again.await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_clears_every_earlier_start_request() {
        let slot = slot();
        let (mut one, mut two) = (
            Box::pin(slot.ensure_ready(Duration::from_secs(9))),
            Box::pin(slot.ensure_ready(Duration::from_secs(9))),
        );
        assert!(futures_util::poll!(&mut one).is_pending());
        slot.start_requested().await;
        assert!(futures_util::poll!(&mut two).is_pending());
        slot.enter_phase(Phase::Starting(ContainerState::Starting));
        slot.clear_start_request();
        let again = tokio::time::timeout(Duration::from_secs(1), slot.start_requested());
        assert!(again.await.is_err());
    }

    #[tokio::test]
    async fn requests_that_wait_for_a_start_are_refused_at_once_when_the_slot_is_retired() {
        for phase in [Phase::Stopped, Phase::Starting(ContainerState::Starting)] {
            let slot = slot();
            slot.enter_phase(phase);
            let mut waiting = Box::pin(slot.ensure_ready(Duration::from_secs(60)));
            assert!(futures_util::poll!(&mut waiting).is_pending());
            slot.retire();
            assert!(matches!(
                futures_util::poll!(&mut waiting),
                std::task::Poll::Ready(Err(NotReady::Removed))
            ));
            let later = slot.ensure_ready(Duration::from_secs(60));
            assert!(matches!(later.await, Err(NotReady::Removed)));
        }
    }

    #[tokio::test]
    async fn requests_are_refused_with_the_failure_until_its_backoff_ends() {
        let slot = slot();
        slot.enter_phase(failure(Instant::now() + Duration::from_secs(60)));
        let told = slot.ensure_ready(Duration::from_secs(60)).await;
        assert!(matches!(told, Err(NotReady::Failed(f)) if f.reason == "it died"));
        slot.enter_phase(failure(Instant::now()));
        let mut waiting = Box::pin(slot.ensure_ready(Duration::from_secs(60)));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        slot.enter_phase(Phase::Removed);
        assert!(matches!(waiting.await, Err(NotReady::Removed)));
    }
}
