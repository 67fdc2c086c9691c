//! Tears a container down whatever state it is in.
//!
//! ```text
//!   kill -9 ──► wait (bounded) ──► delete task ──┬── gone, or never was ──► delete container
//!                                                └── failed ──► keep the record, report
//! ```
//!
//! Each step is tried whatever became of the one before, `NotFound` is success, and every failure that leaves something is
//! reported. One exception: the record stays while the task may be there, because containerd addresses a task through its record only;
//! deleting it would leak the shim for good.

use std::fmt;

use crate::error::{Error, Result};
use crate::tasks::{SIGKILL, Tasks};

/// A step of a teardown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TeardownStep {
    /// `SIGKILL` to every process.
    Kill,
    /// Wait for the init to be gone.
    Wait,
    /// Delete the task, its cgroup, its shim.
    DeleteTask,
    /// Delete the record.
    DeleteContainer,
}

/// What went wrong in a teardown: every step that failed, in order.
#[derive(Debug)]
pub struct TeardownError {
    /// The container.
    pub id: String,
    /// The failures.
    pub failures: Vec<(TeardownStep, Error)>,
}

impl fmt::Display for TeardownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tear down {}", self.id)?;
        for (at, (_, error)) in self.failures.iter().enumerate() {
            write!(f, "{} {error}", if at == 0 { ":" } else { ";" })?;
        }
        Ok(())
    }
}

impl std::error::Error for TeardownError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failures
            .first()
            .map(|(_, error)| error as &(dyn std::error::Error + 'static))
    }
}

pub(super) async fn run<T: Tasks + ?Sized>(tasks: &T, id: &str) -> Result<(), TeardownError> {
    let mut failures = Vec::new();
    let mut attempt = |step, result: Result<()>| match result {
        Ok(()) => true,
        Err(error) if error.is_not_found() => true,
        Err(error) => {
            failures.push((step, error));
            false
        }
    };
    attempt(TeardownStep::Kill, tasks.kill(id, SIGKILL, true).await);
    attempt(TeardownStep::Wait, tasks.wait(id).await.map(drop));
    if attempt(
        TeardownStep::DeleteTask,
        tasks.delete_task(id).await.map(drop),
    ) {
        // A shim that dies in the middle of a call fails it; with the task gone, all that was wanted has happened.
        failures.clear();
        if let Err(error) = tasks.delete_container(id).await
            && !error.is_not_found()
        {
            failures.push((TeardownStep::DeleteContainer, error));
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(TeardownError {
        id: id.to_owned(),
        failures,
    })
}
