//! Thread-per-core runtimes: one thread per core, each with a current-thread runtime, for data paths.
//!
//! ```text
//!   run_per_core(2, "fe", make)
//!     ├ thread fe-0: current-thread runtime + LocalSet ── make(CoreId 0) ──┐
//!     └ thread fe-1: current-thread runtime + LocalSet ── make(CoreId 1) ──┤
//!                                                      Cores::finished ◄───┘
//! ```
//!
//! Nothing is handed between threads: a connection is accepted, served and forwarded on one of
//! them. That is worth more than work stealing on a proxy, most of all on virtual machines.
//! Threads are not pinned: functions run on the same cores, and the kernel sees more than we do.

use std::{future::Future, num::NonZero, panic::AssertUnwindSafe, sync::Arc, thread};

use tokio::{runtime, sync::mpsc, task::LocalSet};

use crate::{exit, tasks::Outcome, telemetry::panic_message};

/// Which of the threads, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CoreId(usize);

impl CoreId {
    /// As an index into what was made per core.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

impl std::fmt::Display for CoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Why the threads of the cores did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum CoresError {
    /// No runtime.
    #[error("start the runtime of thread {thread}")]
    Runtime {
        /// Its name.
        thread: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No thread.
    #[error("start thread {thread}")]
    Thread {
        /// Its name.
        thread: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The work on it failed.
    #[error("thread {thread} failed")]
    Failed {
        /// Its name.
        thread: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// How many cores this process may use (affinity and cgroup limits included), at least 1.
#[must_use]
pub fn available() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Starts `count` threads named `{name}-{n}` (the kernel shows 15 bytes), each of which runs what
/// `make` makes, with `tokio::task::spawn_local` at hand.
///
/// A panic of that future ends the process with [`exit::PANIC`]: a core that silently stopped
/// would leave its listener accepting for nobody. A panic in what it spawned is that task's own.
/// When the future is done, what it spawned on its thread is dropped.
///
/// # Errors
/// When a thread or a runtime cannot be had. Threads that had started end by themselves only if
/// their work does, so treat it as the end of the process.
pub fn run_per_core<M, F>(count: usize, name: &str, make: M) -> Result<Cores, CoresError>
where
    M: Fn(CoreId) -> F + Send + Sync + 'static,
    F: Future<Output: Outcome> + 'static,
{
    let make = Arc::new(make);
    let (ended, ends) = mpsc::channel(count.max(1));
    let runtimes = (0..count)
        .map(|core| new_runtime(format!("{name}-{core}")))
        .collect::<Result<Vec<_>, _>>()?;
    for (core, (thread, runtime)) in runtimes.into_iter().enumerate() {
        let (make, ended) = (make.clone(), ended.clone());
        let body = {
            let thread = thread.clone();
            move || {
                let failure = run_core(&thread, &runtime, || make(CoreId(core)));
                // Nobody may be waiting any more; then the process is ending anyway.
                let _nobody =
                    ended.try_send(failure.map(|source| CoresError::Failed { thread, source }));
            }
        };
        thread::Builder::new()
            .name(thread.clone())
            .spawn(body)
            .map_err(|source| CoresError::Thread { thread, source })?;
    }
    Ok(Cores { ends })
}

fn new_runtime(thread: String) -> Result<(String, runtime::Runtime), CoresError> {
    match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => Ok((thread, runtime)),
        Err(source) => Err(CoresError::Runtime { thread, source }),
    }
}

fn run_core<F: Future<Output: Outcome>>(
    thread: &str,
    runtime: &runtime::Runtime,
    make: impl FnOnce() -> F,
) -> Option<Box<dyn std::error::Error + Send + Sync>> {
    let local = LocalSet::new();
    let whole = AssertUnwindSafe(|| local.block_on(runtime, async { make().await }));
    match std::panic::catch_unwind(whole) {
        Ok(outcome) => outcome.into_failure(),
        Err(payload) => {
            let message = panic_message(payload.as_ref());
            tracing::error!(thread, "thread panicked: {message}; the process ends");
            std::process::exit(exit::PANIC.into());
        }
    }
}

/// The running threads. Dropping it does not end them: their work ends by the shutdown it holds.
#[derive(Debug)]
#[must_use = "a core that fails is noticed only by whoever waits for it"]
pub struct Cores {
    ends: mpsc::Receiver<Option<CoresError>>,
}

impl Cores {
    /// Waits until all are done, or the first has failed. Give it to [`crate::Tasks`].
    ///
    /// # Errors
    /// The first failure.
    pub async fn finished(mut self) -> Result<(), CoresError> {
        while let Some(failure) = self.ends.recv().await {
            if let Some(error) = failure {
                return Err(error);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, rc::Rc, sync::Mutex};

    use super::*;
    use crate::Shutdown;

    #[tokio::test]
    async fn each_core_has_its_own_named_thread_and_may_spawn_what_is_not_send() {
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let cores = {
            let seen = seen.clone();
            run_per_core(3, "worker", move |core| {
                let seen = seen.clone();
                async move {
                    let name = Rc::new(thread::current().name().map(str::to_owned));
                    let task = tokio::task::spawn_local(async move { name.as_ref().clone() });
                    let name = task.await.expect("it does not panic");
                    seen.lock()
                        .expect("nobody panicked")
                        .insert((core.index(), name));
                }
            })
        };
        cores
            .expect("threads are to be had")
            .finished()
            .await
            .expect("they do not fail");
        let expected: BTreeSet<_> = (0..3).map(|n| (n, Some(format!("worker-{n}")))).collect();
        assert_eq!(*seen.lock().expect("nobody panicked"), expected);
    }

    #[tokio::test]
    async fn the_first_failure_is_reported_while_others_still_run() {
        let shutdown = Shutdown::new();
        let inner = shutdown.clone();
        let cores = run_per_core(2, "worker", move |core| {
            let shutdown = inner.clone();
            async move {
                if core.index() == 1 {
                    return Err(std::io::Error::other("no luck"));
                }
                shutdown.cancelled().await;
                Ok(())
            }
        });
        let error = cores
            .expect("threads")
            .finished()
            .await
            .expect_err("core 1 failed");
        assert_eq!(
            bismuth_base::chain(&error),
            "thread worker-1 failed: no luck"
        );
        shutdown.trigger();
    }
}
