//! The state of the fake and its transitions.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use tokio::sync::mpsc;
use tonic::{Code, Status};

use super::{Act, FIRST_PID, Fault};
use crate::error::{Error, Result};
use crate::events::TaskEvent;
use crate::tasks::{Exit, NewContainer, SIGKILL, SIGTERM, TaskStatus};

#[derive(Default)]
pub(super) struct State {
    pub(super) containers: BTreeMap<String, Stored>,
    pub(super) faults: VecDeque<(Act, Fault)>,
    pub(super) calls: Vec<Act>,
    pub(super) readers: Vec<mpsc::UnboundedSender<TaskEvent>>,
    pub(super) pids: VecDeque<u32>,
    pub(super) tasks_made: u32,
}

pub(super) struct Stored {
    pub(super) container: NewContainer,
    pub(super) task: Option<Task>,
}

pub(super) struct Task {
    pub(super) pid: u32,
    pub(super) status: TaskStatus,
}

fn refuse(act: Act, id: &str, code: Code, message: &str) -> Error {
    Error::from_status(act.phrase(), id, Status::new(code, message))
}

impl State {
    pub(super) fn record(&mut self, act: Act) -> Option<Fault> {
        self.calls.push(act);
        let at = self.faults.iter().position(|(of, _)| *of == act)?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }

    pub(super) fn emit(&mut self, event: &TaskEvent) {
        self.readers
            .retain(|reader| reader.send(event.clone()).is_ok());
    }

    pub(super) fn stored(&mut self, act: Act, id: &str) -> Result<&mut Stored> {
        self.containers
            .get_mut(id)
            .ok_or_else(|| refuse(act, id, Code::NotFound, "container: not found"))
    }

    pub(super) fn task(&mut self, act: Act, id: &str) -> Result<&mut Task> {
        self.stored(act, id)?
            .task
            .as_mut()
            .ok_or_else(|| refuse(act, id, Code::NotFound, "no running task found: not found"))
    }

    pub(super) fn exit(&mut self, id: &str, status: u32) {
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

    pub(super) fn create_container(&mut self, container: NewContainer) -> Result<()> {
        let (act, id) = (Act::CreateContainer, container.id.clone());
        if self.containers.contains_key(&id) {
            let message = "container: already exists";
            return Err(refuse(act, &id, Code::AlreadyExists, message));
        }
        let task = None;
        self.containers.insert(id, Stored { container, task });
        Ok(())
    }

    pub(super) fn create_task(&mut self, id: &str) -> Result<u32> {
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
            status: TaskStatus::Created,
        });
        self.pids.pop_front();
        self.tasks_made += 1;
        Ok(pid)
    }

    pub(super) fn start(&mut self, id: &str) -> Result<()> {
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

    pub(super) fn kill(&mut self, id: &str, signal: u32) -> Result<()> {
        if let TaskStatus::Stopped(_) = self.task(Act::Kill, id)?.status {
            return Err(refuse(
                Act::Kill,
                id,
                Code::NotFound,
                "process already finished: not found",
            ));
        }
        if signal == SIGKILL || signal == SIGTERM {
            self.exit(id, 128 + signal);
        }
        Ok(())
    }

    pub(super) fn stopped(&mut self, id: &str) -> Result<Option<Exit>> {
        Ok(match self.task(Act::Wait, id)?.status {
            TaskStatus::Stopped(exit) => Some(exit),
            _ => None,
        })
    }

    pub(super) fn delete_task(&mut self, id: &str) -> Result<Exit> {
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

    pub(super) fn delete_container(&mut self, id: &str) -> Result<()> {
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
