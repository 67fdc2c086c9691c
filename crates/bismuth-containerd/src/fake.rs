//! A scripted fake of containerd for unit tests: containers in memory, no processes.
//!
//! ```text
//!   test ── script(act, fault) ──► FakeContainerd ◄── Tasks ── code under test
//!        ── exit(id, status) ────►      │
//!        ◄─ count(act) ─────────────────┤
//!                                       └── events ──► code under test
//! ```
//!
//! It obeys containerd's rules (a running task cannot be deleted, an id is taken once, a dead task cannot be killed), so
//! that a plan which works here is one that containerd would accept. It is stricter in one point: a record whose task
//! is still there cannot be deleted, which the real one allows and then leaks the shim.
//!
//! Time is tokio's: with a paused clock hangs and delays cost nothing.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
pub use tonic::Code;
use tonic::Status;

use self::state::{State, Stored};
use crate::client::{Deadlines, ServerProcess};
use crate::error::{Error, Result};
use crate::events::{TaskEvent, TaskEvents};
use crate::tasks::{ContainerInfo, Exit, NewContainer, Stdio, TaskInfo, Tasks};

/// Pids of fake tasks begin above the kernel's largest possible pid (2^22), so that none belongs to a real process.
const FIRST_PID: u32 = 5_000_000;

/// A method of [`Tasks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the method of that name")]
pub enum Act {
    CreateContainer,
    CreateTask,
    Start,
    Kill,
    Wait,
    DeleteTask,
    DeleteContainer,
    ListContainers,
    ListTasks,
}

impl Act {
    fn phrase(self) -> &'static str {
        match self {
            Self::CreateContainer => "create container",
            Self::CreateTask => "create task",
            Self::Start => "start task",
            Self::Kill => "kill task",
            Self::Wait => "wait for task",
            Self::DeleteTask => "delete task",
            Self::DeleteContainer => "delete container",
            Self::ListContainers => "list containers of",
            Self::ListTasks => "list tasks of",
        }
    }
}

/// What the next call of an act does instead of succeeding at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails and changes nothing.
    Fail(Code, String),
    /// It takes effect, and then fails: an unknown outcome.
    TakesEffectThenFails(Code, String),
    /// It does what it should, this much later.
    Delay(Duration),
    /// It changes nothing and runs into its deadline.
    Hang,
    /// For [`Act::Start`]: the program ends with this status as soon as it is started.
    ExitsAtOnce(u32),
}

/// See the module's text. Clones share their state.
#[derive(Clone, Default)]
pub struct FakeContainerd {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl FakeContainerd {
    /// The next call of `act` that has no earlier script meets this fault.
    pub fn script(&self, act: Act, fault: Fault) {
        self.state().faults.push_back((act, fault));
    }

    /// The next task gets this pid, for instance that of a real process which the test owns.
    pub fn next_pid(&self, pid: u32) {
        self.state().pids.push_back(pid);
    }

    /// The program of a task ends. Does nothing if it has ended already.
    pub fn exit(&self, id: &str, status: u32) {
        self.state().exit(id, status);
        self.changed.notify_waiters();
    }

    /// How often a method was called.
    pub fn count(&self, act: Act) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|call| **call == act)
            .count()
    }

    /// The container as it was created.
    pub fn container(&self, id: &str) -> Option<NewContainer> {
        self.state()
            .containers
            .get(id)
            .map(|stored| stored.container.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while it held the lock has failed already.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the call, meets its fault, and applies it.
    async fn perform<T>(
        &self,
        act: Act,
        id: &str,
        apply: impl FnOnce(&mut State) -> Result<T>,
    ) -> Result<T> {
        let fault = self.state().record(act);
        let failure = |code, message: String| {
            Error::from_status(act.phrase(), id, Status::new(code, message))
        };
        match fault {
            Some(Fault::Fail(code, message)) => return Err(failure(code, message)),
            Some(Fault::Hang) => return Err(self.hang(act, id).await),
            Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Fault::TakesEffectThenFails(code, message)) => {
                apply(&mut self.state())?;
                self.changed.notify_waiters();
                return Err(failure(code, message));
            }
            Some(Fault::ExitsAtOnce(status)) => {
                let applied = apply(&mut self.state());
                self.exit(id, status);
                return applied;
            }
            None => {}
        }
        let applied = apply(&mut self.state());
        self.changed.notify_waiters();
        applied
    }

    async fn hang(&self, act: Act, id: &str) -> Error {
        let after = match act {
            Act::CreateContainer | Act::DeleteContainer => Deadlines::default().quick,
            _ => Deadlines::default().create,
        };
        tokio::time::sleep(after).await;
        deadline(act, id, after)
    }
}

fn deadline(act: Act, id: &str, after: Duration) -> Error {
    Error::DeadlineExceeded {
        act: act.phrase(),
        object: id.to_owned(),
        after,
    }
}

#[async_trait]
impl Tasks for FakeContainerd {
    async fn create_container(&self, container: NewContainer) -> Result<()> {
        let id = container.id.clone();
        let create = |state: &mut State| state.create_container(container);
        self.perform(Act::CreateContainer, &id, create).await
    }

    async fn create_task(&self, id: &str, _stdio: Stdio) -> Result<u32> {
        self.perform(Act::CreateTask, id, |state| state.create_task(id))
            .await
    }

    async fn start(&self, id: &str) -> Result<()> {
        self.perform(Act::Start, id, |state| state.start(id)).await
    }

    async fn kill(&self, id: &str, signal: u32, _all: bool) -> Result<()> {
        self.perform(Act::Kill, id, |state| state.kill(id, signal))
            .await
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        let after = Deadlines::default().create;
        let stopped = async {
            let mut exit = self
                .perform(Act::Wait, id, |state| state.stopped(id))
                .await?;
            loop {
                // Enabled before looking again, so that an exit in between is not missed.
                let mut changed = std::pin::pin!(self.changed.notified());
                changed.as_mut().enable();
                exit = match exit {
                    Some(_) => exit,
                    None => self.state().stopped(id)?,
                };
                if let Some(exit) = exit {
                    return Ok(exit);
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(after, stopped).await;
        waited.unwrap_or_else(|_| Err(deadline(Act::Wait, id, after)))
    }

    async fn delete_task(&self, id: &str) -> Result<Exit> {
        self.perform(Act::DeleteTask, id, |state| state.delete_task(id))
            .await
    }

    async fn delete_container(&self, id: &str) -> Result<()> {
        self.perform(Act::DeleteContainer, id, |state| state.delete_container(id))
            .await
    }

    async fn list_containers(&self) -> Result<Vec<ContainerInfo>> {
        let info = |stored: &Stored| ContainerInfo {
            id: stored.container.id.clone(),
            labels: stored.container.labels.clone(),
        };
        self.perform(Act::ListContainers, "", |state| {
            Ok(state.containers.values().map(info).collect())
        })
        .await
    }

    async fn list_tasks(&self) -> Result<Vec<TaskInfo>> {
        let info = |(id, stored): (&String, &Stored)| {
            let task = stored.task.as_ref()?;
            Some(TaskInfo {
                id: id.clone(),
                pid: task.pid,
                status: task.status,
            })
        };
        self.perform(Act::ListTasks, "", |state| {
            Ok(state.containers.iter().filter_map(info).collect())
        })
        .await
    }

    async fn server_process(&self) -> Result<ServerProcess> {
        Ok(ServerProcess {
            pid: std::process::id(),
            nofile: crate::spec::DEFAULT_NOFILE_LIMIT,
        })
    }

    fn events(&self) -> TaskEvents {
        let (reader, events) = mpsc::unbounded_channel();
        let first = reader.send(TaskEvent::Lost);
        debug_assert!(first.is_ok(), "the receiver is in this function");
        self.state().readers.push(reader);
        UnboundedReceiverStream::new(events).boxed()
    }
}

#[cfg(test)]
mod tests;
