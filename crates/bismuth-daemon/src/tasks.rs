//! Supervised tasks: each has a name, and a policy for its death.
//!
//! ```text
//!   spawn ─► running ──► ended by itself, failed, or panicked
//!               │              ├ after the shutdown was triggered: done
//!               │              ├ EndsProcess: the shutdown is triggered, as a failure
//!               │              └ BestEffort:  logged, done
//!               └─ drain(deadline) ─► named, aborted
//! ```
//!
//! A task is for something that has a name: an accept loop, a watcher, a driver. Connections and
//! requests are too many for it; the accept loop owns them.

use std::{
    collections::BTreeMap,
    error::Error,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::{Shutdown, telemetry::panic_message};

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The process cannot live without it: the shutdown is triggered, as a failure.
    EndsProcess,
    /// Its failure is logged, and nothing else happens.
    BestEffort,
}

/// What a task may answer: nothing, or a `Result<(), E>`.
pub trait Outcome {
    /// The failure, if it is one.
    fn into_failure(self) -> Option<Box<dyn Error + Send + Sync>>;
}

impl Outcome for () {
    fn into_failure(self) -> Option<Box<dyn Error + Send + Sync>> {
        None
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> Outcome for Result<(), E> {
    fn into_failure(self) -> Option<Box<dyn Error + Send + Sync>> {
        self.err().map(Into::into)
    }
}

/// The deadline of a drain passed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("drain within {deadline:?}: still running, and aborted now: {}", names.join(", "))]
pub struct StillRunning {
    /// How long was waited.
    pub deadline: Duration,
    /// The tasks that still ran, sorted.
    pub names: Vec<String>,
}

/// The tasks of a process. Clones are the same set.
#[derive(Clone, Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    tracker: TaskTracker,
    running: Arc<Running>,
}

impl Tasks {
    /// An empty set whose tasks are expected to end when `shutdown` is triggered.
    #[must_use]
    pub fn new(shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
            tracker: TaskTracker::new(),
            running: Arc::default(),
        }
    }

    /// Runs `work` under `name`. A panic in it is caught and treated as a failure.
    ///
    /// Aborting it by the handle is not a failure: whoever does that knows.
    pub fn spawn<F>(&self, name: impl Into<String>, policy: Policy, work: F) -> AbortHandle
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let name: Arc<str> = name.into().into();
        let entry = Running::enter(&self.running, &name);
        let number = entry.number;
        let work = supervise(entry, policy, self.shutdown.clone(), work);
        self.owned(number, self.tracker.spawn(work).abort_handle())
    }

    /// [`Tasks::spawn`] for a future that stays on this thread. Call it inside a `LocalSet`.
    pub fn spawn_local<F>(&self, name: impl Into<String>, policy: Policy, work: F) -> AbortHandle
    where
        F: Future<Output: Outcome> + 'static,
    {
        let name: Arc<str> = name.into().into();
        let entry = Running::enter(&self.running, &name);
        let number = entry.number;
        let work = supervise(entry, policy, self.shutdown.clone(), work);
        self.owned(number, self.tracker.spawn_local(work).abort_handle())
    }

    /// The names of the tasks that run now, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .running
            .entries()
            .values()
            .map(|task| task.name.to_string())
            .collect();
        names.sort_unstable();
        names
    }

    /// Triggers the shutdown, and waits for every task, also for those spawned meanwhile.
    ///
    /// # Errors
    /// When tasks still run after `deadline`: they are aborted and named.
    pub async fn drain(&self, deadline: Duration) -> Result<(), StillRunning> {
        self.shutdown.trigger();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let names = self.names();
        for task in self.running.entries().values() {
            if let Some(abort) = &task.abort {
                abort.abort();
            }
        }
        Err(StillRunning { deadline, names })
    }

    fn owned(&self, number: u64, abort: AbortHandle) -> AbortHandle {
        // It may have ended before it got here; then it stays forgotten.
        if let Some(task) = self.running.entries().get_mut(&number) {
            task.abort = Some(abort.clone());
        }
        abort
    }
}

/// How a run of a task ended.
#[derive(Debug)]
enum End {
    ByItself,
    Failed(Box<dyn Error + Send + Sync>),
    Panicked(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByItself => write!(f, "ended though nobody asked it to"),
            Self::Failed(error) => write!(f, "failed: {}", bismuth_base::chain(error.as_ref())),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

async fn run<F: Future<Output: Outcome>>(work: F) -> End {
    // Unwind safety: what the task shared with others is theirs to judge; the task itself is gone.
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => outcome.into_failure().map_or(End::ByItself, End::Failed),
        Err(payload) => End::Panicked(panic_message(payload.as_ref()).to_owned()),
    }
}

async fn supervise<F>(entry: Entry, policy: Policy, shutdown: Shutdown, work: F)
where
    F: Future<Output: Outcome>,
{
    let end = run(work).await;
    let task = &*entry.name;
    match (policy, end) {
        (_, End::ByItself) if shutdown.is_triggered() => {
            tracing::debug!(task, "task done");
        }
        (_, end) if shutdown.is_triggered() => {
            tracing::error!(task, "task {end} (while the process was ending)");
        }
        (Policy::EndsProcess, end) => {
            tracing::error!(task, "task {end}; the process ends");
            shutdown.fail(format!("task {task} {end}"));
        }
        (Policy::BestEffort, End::ByItself) => tracing::debug!(task, "task done"),
        (Policy::BestEffort, end) => tracing::error!(task, "task {end}"),
    }
}

#[derive(Debug, Default)]
struct Running {
    next: AtomicU64,
    entries: Mutex<BTreeMap<u64, RunningTask>>,
}

#[derive(Debug)]
struct RunningTask {
    name: Arc<str>,
    /// Known a moment after the task is entered.
    abort: Option<AbortHandle>,
}

/// A task's place among the running ones; it leaves when the task's future is dropped, which
/// happens at its end, when it is aborted, and when its runtime goes away.
struct Entry {
    running: Arc<Running>,
    number: u64,
    name: Arc<str>,
}

impl Running {
    fn enter(running: &Arc<Self>, name: &Arc<str>) -> Entry {
        let number = running.next.fetch_add(1, Ordering::Relaxed);
        let task = RunningTask {
            name: name.clone(),
            abort: None,
        };
        running.entries().insert(number, task);
        Entry {
            running: running.clone(),
            number,
            name: name.clone(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<u64, RunningTask>> {
        // Every change to the map is one call, so a panic cannot leave it half-changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.entries().remove(&self.number);
    }
}
