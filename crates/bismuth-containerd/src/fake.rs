//! A scripted twin of containerd for unit tests: containers in memory, no processes.
//!
//! ```text
//!   test ── script(act, fault) ──► FakeContainerd ◄── Tasks ── code under test
//!        ── exit(id, status) ────►      │
//!        ◄─ calls() ────────────────────┤
//!                                       └── events ──► code under test
//! ```
//!
//! It obeys containerd's rules (a running task cannot be deleted, an id is taken once, a dead task cannot be killed), so
//! that a plan which works here is one that containerd would accept. It is stricter in one point: a record whose task
//! is still there cannot be deleted, which the real one allows and then leaks the shim.
//!
//! Time is tokio's: with a paused clock hangs and delays cost nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use crate::client::Deadlines;
use crate::error::{Error, Result};
use crate::events::{TaskEvent, TaskEvents};
use crate::tasks::{
    ContainerInfo, Exit, NewContainer, SIGKILL, SIGTERM, Stdio, TaskInfo, TaskStatus, Tasks,
};

/// Pids of fake tasks begin above the kernel's largest possible pid (2^22), so that none belongs to a real process.
const FIRST_PID: u32 = 5_000_000;

/// A method of [`Tasks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // each is the method of that name
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

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which method.
    pub act: Act,
    /// On which container; empty for lists.
    pub id: String,
}

/// See the module's text. Clones share their state.
#[derive(Clone, Default)]
pub struct FakeContainerd {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    deadlines: Deadlines,
}

#[derive(Default)]
struct State {
    containers: BTreeMap<String, Stored>,
    faults: VecDeque<(Act, Fault)>,
    calls: Vec<Call>,
    readers: Vec<mpsc::UnboundedSender<TaskEvent>>,
    pids: VecDeque<u32>,
    tasks_made: u32,
    ignores_sigterm: bool,
}

struct Stored {
    container: NewContainer,
    task: Option<Task>,
}

struct Task {
    pid: u32,
    stdio: Stdio,
    status: TaskStatus,
}

impl FakeContainerd {
    /// An empty, healthy containerd whose hanging calls end after these deadlines.
    pub fn new(deadlines: Deadlines) -> Self {
        Self {
            deadlines,
            ..Self::default()
        }
    }

    /// The next call of `act` that has no earlier script meets this fault.
    pub fn script(&self, act: Act, fault: Fault) {
        self.state().faults.push_back((act, fault));
    }

    /// The next task gets this pid, for instance that of a real process which the test owns.
    pub fn next_pid(&self, pid: u32) {
        self.state().pids.push_back(pid);
    }

    /// From now on programs ignore `SIGTERM`; otherwise they end with 143.
    pub fn ignore_sigterm(&self) {
        self.state().ignores_sigterm = true;
    }

    /// The program of a task ends. Does nothing if it has ended already.
    pub fn exit(&self, id: &str, status: u32) {
        self.state().exit(id, status);
        self.changed.notify_waiters();
    }

    /// The kernel kills a process of the task for its memory.
    pub fn oom(&self, id: &str) {
        self.state().emit(&TaskEvent::Oom { id: id.to_owned() });
    }

    /// All readers are told that events may have been missed.
    pub fn lose_events(&self) {
        self.state().emit(&TaskEvent::Lost);
    }

    /// The calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// How often a method was called.
    pub fn count(&self, act: Act) -> usize {
        self.state()
            .calls
            .iter()
            .filter(|call| call.act == act)
            .count()
    }

    /// The container as it was created.
    pub fn container(&self, id: &str) -> Option<NewContainer> {
        self.state()
            .containers
            .get(id)
            .map(|stored| stored.container.clone())
    }

    /// The output paths of a task.
    pub fn stdio(&self, id: &str) -> Option<Stdio> {
        let state = self.state();
        let task = state.containers.get(id)?.task.as_ref()?;
        Some(task.stdio.clone())
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
        let fault = self.state().record(act, id);
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
            Act::CreateContainer | Act::DeleteContainer => self.deadlines.quick,
            _ => self.deadlines.create,
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

fn refuse(act: Act, id: &str, code: Code, message: &str) -> Error {
    Error::from_status(act.phrase(), id, Status::new(code, message))
}

impl State {
    fn record(&mut self, act: Act, id: &str) -> Option<Fault> {
        self.calls.push(Call {
            act,
            id: id.to_owned(),
        });
        let at = self.faults.iter().position(|(of, _)| *of == act)?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }

    fn emit(&mut self, event: &TaskEvent) {
        self.readers
            .retain(|reader| reader.send(event.clone()).is_ok());
    }

    fn stored(&mut self, act: Act, id: &str) -> Result<&mut Stored> {
        self.containers
            .get_mut(id)
            .ok_or_else(|| refuse(act, id, Code::NotFound, "container: not found"))
    }

    fn task(&mut self, act: Act, id: &str) -> Result<&mut Task> {
        self.stored(act, id)?
            .task
            .as_mut()
            .ok_or_else(|| refuse(act, id, Code::NotFound, "no running task found: not found"))
    }

    fn exit(&mut self, id: &str, status: u32) {
        let at = SystemTime::now();
        let Ok(task) = self.task(Act::Kill, id) else {
            return;
        };
        if matches!(task.status, TaskStatus::Stopped(_)) {
            return;
        }
        task.status = TaskStatus::Stopped(Exit { status, at });
        let (id, pid) = (id.to_owned(), task.pid);
        self.emit(&TaskEvent::Exit {
            id,
            pid,
            status,
            at,
        });
    }

    fn create_task(&mut self, id: &str, stdio: Stdio) -> Result<u32> {
        let scripted = self.pids.front().copied();
        let pid = scripted.unwrap_or(FIRST_PID + self.tasks_made);
        let stored = self.stored(Act::CreateTask, id)?;
        if stored.task.is_some() {
            return Err(refuse(
                Act::CreateTask,
                id,
                Code::AlreadyExists,
                "task: already exists",
            ));
        }
        stored.task = Some(Task {
            pid,
            stdio,
            status: TaskStatus::Created,
        });
        self.pids.pop_front();
        self.tasks_made += 1;
        Ok(pid)
    }

    fn start(&mut self, id: &str) -> Result<()> {
        let task = self.task(Act::Start, id)?;
        if task.status != TaskStatus::Created {
            return Err(refuse(
                Act::Start,
                id,
                Code::FailedPrecondition,
                "cannot start a container that has started",
            ));
        }
        task.status = TaskStatus::Running;
        Ok(())
    }

    fn kill(&mut self, id: &str, signal: u32) -> Result<()> {
        if let TaskStatus::Stopped(_) = self.task(Act::Kill, id)?.status {
            return Err(refuse(
                Act::Kill,
                id,
                Code::NotFound,
                "process already finished: not found",
            ));
        }
        if signal == SIGKILL || (signal == SIGTERM && !self.ignores_sigterm) {
            self.exit(id, 128 + signal);
        }
        Ok(())
    }

    fn stopped(&mut self, id: &str) -> Result<Option<Exit>> {
        Ok(match self.task(Act::Wait, id)?.status {
            TaskStatus::Stopped(exit) => Some(exit),
            _ => None,
        })
    }

    fn delete_task(&mut self, id: &str) -> Result<Exit> {
        let act = Act::DeleteTask;
        let TaskStatus::Stopped(exit) = self.task(act, id)?.status else {
            return Err(refuse(
                act,
                id,
                Code::FailedPrecondition,
                "task must be stopped before deletion",
            ));
        };
        self.stored(act, id)?.task = None;
        Ok(exit)
    }

    fn delete_container(&mut self, id: &str) -> Result<()> {
        let act = Act::DeleteContainer;
        if self.stored(act, id)?.task.is_some() {
            return Err(refuse(
                act,
                id,
                Code::FailedPrecondition,
                "its task would be leaked",
            ));
        }
        self.containers.remove(id);
        Ok(())
    }
}

#[async_trait]
impl Tasks for FakeContainerd {
    async fn create_container(&self, container: NewContainer) -> Result<()> {
        let act = Act::CreateContainer;
        let id = container.id.clone();
        let apply = |state: &mut State| {
            if state.containers.contains_key(&container.id) {
                return Err(refuse(
                    act,
                    &container.id,
                    Code::AlreadyExists,
                    "container: already exists",
                ));
            }
            let stored = Stored {
                container,
                task: None,
            };
            state.containers.insert(stored.container.id.clone(), stored);
            Ok(())
        };
        self.perform(act, &id, apply).await
    }

    async fn create_task(&self, id: &str, stdio: Stdio) -> Result<u32> {
        self.perform(Act::CreateTask, id, |state| state.create_task(id, stdio))
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
        let after = self.deadlines.create;
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

    fn events(&self) -> TaskEvents {
        let (reader, events) = mpsc::unbounded_channel();
        let first = reader.send(TaskEvent::Lost);
        debug_assert!(first.is_ok(), "the receiver is in this function");
        self.state().readers.push(reader);
        UnboundedReceiverStream::new(events).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::{RuntimeOptions, TeardownStep};

    fn container(id: &str) -> NewContainer {
        NewContainer {
            id: id.to_owned(),
            spec: oci_spec::runtime::Spec::default(),
            image: None,
            labels: std::collections::HashMap::new(),
            runtime: RuntimeOptions::runc(),
            shim_group: None,
        }
    }

    async fn running(fake: &FakeContainerd, id: &str) -> u32 {
        fake.create_container(container(id))
            .await
            .expect("recorded");
        let pid = fake.create_task(id, Stdio::null()).await.expect("created");
        fake.start(id).await.expect("started");
        pid
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_lives_and_dies_as_containerds_does() {
        let fake = FakeContainerd::default();
        let mut events = fake.events();
        let pid = running(&fake, "a").await;
        assert!(matches!(
            fake.delete_task("a").await,
            Err(Error::FailedPrecondition(_))
        ));
        assert!(matches!(
            fake.create_container(container("a")).await,
            Err(Error::AlreadyExists(_))
        ));

        fake.exit("a", 3);
        assert_eq!(events.next().await, Some(TaskEvent::Lost));
        let exit = events.next().await;
        assert!(
            matches!(&exit, Some(TaskEvent::Exit { id, pid: p, status: 3, .. }) if id == "a" && *p == pid),
            "{exit:?}"
        );
        assert!(matches!(
            fake.kill("a", SIGKILL, true).await,
            Err(Error::NotFound(_))
        ));
        assert_eq!(fake.wait("a").await.expect("stopped").status, 3);
        fake.teardown("a").await.expect("torn down");
        assert!(fake.list_containers().await.expect("listed").is_empty());
        fake.teardown("a").await.expect("twice is harmless");
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_hears_of_an_exit_and_of_its_deadline() {
        let fake = FakeContainerd::default();
        running(&fake, "a").await;
        let (waited, ()) = tokio::join!(fake.wait("a"), async { fake.exit("a", 0) });
        assert_eq!(waited.expect("stopped").status, 0);

        running(&fake, "b").await;
        assert!(matches!(
            fake.wait("b").await,
            Err(Error::DeadlineExceeded { .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn scripted_faults_meet_their_act_in_order() {
        let fake = FakeContainerd::default();
        fake.script(
            Act::CreateTask,
            Fault::Fail(Code::Unknown, "runc create failed".to_owned()),
        );
        fake.script(Act::CreateTask, Fault::Hang);
        fake.script(Act::Start, Fault::ExitsAtOnce(127));
        fake.create_container(container("a"))
            .await
            .expect("recorded");
        let failed = fake
            .create_task("a", Stdio::null())
            .await
            .expect_err("scripted");
        assert_eq!(
            failed.to_string(),
            "create task a: runc create failed (grpc Unknown)"
        );
        let hung = fake
            .create_task("a", Stdio::null())
            .await
            .expect_err("scripted");
        assert!(matches!(hung, Error::DeadlineExceeded { .. }));
        fake.create_task("a", Stdio::null())
            .await
            .expect("no script left");
        fake.start("a").await.expect("started");
        assert_eq!(fake.wait("a").await.expect("stopped").status, 127);
        assert_eq!(fake.count(Act::CreateTask), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_teardown_reports_every_failure_and_keeps_the_record_of_a_task_it_could_not_delete() {
        let fake = FakeContainerd::default();
        running(&fake, "a").await;
        fake.script(
            Act::Kill,
            Fault::Fail(Code::Unknown, "shim is gone".to_owned()),
        );
        fake.script(Act::Wait, Fault::Hang);
        fake.script(
            Act::DeleteTask,
            Fault::Fail(Code::Unavailable, "ttrpc: closed".to_owned()),
        );
        let error = fake.teardown("a").await.expect_err("scripted");
        let steps: Vec<_> = error.failures.iter().map(|(step, _)| *step).collect();
        assert_eq!(
            steps,
            [
                TeardownStep::Kill,
                TeardownStep::Wait,
                TeardownStep::DeleteTask
            ]
        );
        let text = error.to_string();
        assert!(
            text.contains("shim is gone") && text.contains("ttrpc: closed"),
            "{text}"
        );
        assert_eq!(fake.list_containers().await.expect("listed").len(), 1);

        fake.teardown("a").await.expect("the next attempt succeeds");
        assert!(fake.list_containers().await.expect("listed").is_empty());
    }
}
