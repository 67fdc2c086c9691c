//! Containers and tasks: the trait by which bismuthd creates, starts, watches and deletes them.
//!
//! ```text
//!   create_container      create_task            start           process ends        delete_task     delete_container
//!  ──────────────────► ───────────────► created ───────► running ────────────► stopped ───────────► ─────────────────►
//!    a record             a shim, a                        │                      ▲
//!                         cgroup, a frozen init            └──── kill ────────────┘
//! ```
//!
//! A *container* is a record in containerd's database: id, spec, runtime. A *task* is its running side: a shim process that
//! is the parent of the container's init. The record is the only handle on the task; [`Tasks::teardown`] therefore
//! keeps it until the task is gone.
//!
//! [`Containerd`](crate::Containerd) implements [`Tasks`] in `tasks/rpc.rs`; `fake` has a scripted fake of it.

mod rpc;
mod runtime;
mod shim_socket;
mod teardown;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::time::SystemTime;

use async_trait::async_trait;
use oci_spec::runtime::Spec;

pub use teardown::{TeardownError, TeardownStep};

use crate::client::ServerProcess;
use crate::error::Result;
use crate::events::TaskEvents;

/// `SIGTERM`, for [`Tasks::kill`].
pub const SIGTERM: u32 = 15;
/// `SIGKILL`, for [`Tasks::kill`].
pub const SIGKILL: u32 = 9;

/// What bismuthd asks of containerd about running things. Every call is bounded by the deadline of its class; for the errors
/// see [`Error`](crate::Error).
#[async_trait]
pub trait Tasks: Send + Sync + 'static {
    /// Records a container. Fails with `AlreadyExists` if its id is taken.
    async fn create_container(&self, container: NewContainer) -> Result<()>;

    /// Starts the container's shim and, frozen before its program, its init. Returns the init's host pid. From here on the
    /// namespaces, mounts and the cgroup exist.
    async fn create_task(&self, id: &str, stdio: Stdio) -> Result<u32>;

    /// Lets the created task run its program.
    async fn start(&self, id: &str) -> Result<()>;

    /// Sends a signal to the task's init, or to every process of the task. Killing the init with `SIGKILL` ends all of
    /// them, as it is the first process of a pid namespace. `NotFound` if the task has ended.
    async fn kill(&self, id: &str, signal: u32, all: bool) -> Result<()>;

    /// Waits until the task has stopped, or the deadline for slow calls has passed.
    async fn wait(&self, id: &str) -> Result<Exit>;

    /// Removes a stopped task: its cgroup, its bundle, its shim (unless others live in it).
    async fn delete_task(&self, id: &str) -> Result<Exit>;

    /// Removes the record. Call it after the task is gone: without the record containerd cannot address the task.
    async fn delete_container(&self, id: &str) -> Result<()>;

    /// All containers of the namespace.
    async fn list_containers(&self) -> Result<Vec<ContainerInfo>>;

    /// All tasks of the namespace. A shim that hangs makes its task [`TaskStatus::Unknown`] after two seconds.
    async fn list_tasks(&self) -> Result<Vec<TaskInfo>>;

    /// The process that serves now, see [`Containerd::server_process`](crate::Containerd::server_process).
    async fn server_process(&self) -> Result<ServerProcess>;

    /// What happens to the tasks of the namespace from now on; the first item is `Lost`, and means "list now".
    fn events(&self) -> TaskEvents;

    /// Ends a container whatever state it is in, and removes all of it. Doing it twice is harmless.
    ///
    /// # Errors
    /// The steps that failed, all of them. The record is still there if the task is, so that teardown can be tried again.
    async fn teardown(&self, id: &str) -> Result<(), TeardownError> {
        teardown::run(self, id).await
    }
}

/// A container to be recorded.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// 1 to 76 letters, digits, and single `-`, `_`, `.` between them.
    pub id: String,
    /// The complete runtime spec, see [`spec`](crate::spec).
    pub spec: Spec,
    /// Name of the image, shown by `ctr`; means nothing otherwise.
    pub image: Option<String>,
    /// Labels of our own making, never a tenant's. Key and value together at most 4096 bytes.
    pub labels: HashMap<String, String>,
    /// The OCI runtime, with runc's command line: `runc`, or `crun`, which is written in C and starts a container in half of
    /// the time, but does not work where cgroup v1 and v2 are mixed. Found in containerd's `PATH`, or an absolute path.
    pub runtime: String,
}

/// Where a task's output goes: existing FIFOs, absolute paths. `None` is `/dev/null`. A task never gets input.
///
/// The shim opens both ends, so opening a FIFO neither blocks it nor us, and a reader that goes away and comes back
/// neither ends nor disturbs the task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stdio {
    /// FIFO for the standard output.
    pub stdout: Option<PathBuf>,
    /// FIFO for the standard error.
    pub stderr: Option<PathBuf>,
}

impl Stdio {
    /// Output into two FIFOs.
    pub fn fifos(stdout: impl Into<PathBuf>, stderr: impl Into<PathBuf>) -> Self {
        Self {
            stdout: Some(stdout.into()),
            stderr: Some(stderr.into()),
        }
    }

    /// Output to nowhere.
    pub fn null() -> Self {
        Self::default()
    }
}

/// How a task ended. Displays as "exit code 3" or "killed by signal 9 (SIGKILL)".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code, or 128 plus the number of the signal (containerd `sys/reaper`).
    pub status: u32,
    /// When the shim saw it.
    pub at: SystemTime,
}

impl Exit {
    /// The signal that probably ended the process. A program that exits with 137 by itself looks the same.
    pub fn signal(&self) -> Option<u32> {
        (129..=128 + 64)
            .contains(&self.status)
            .then(|| self.status - 128)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal() {
            None => write!(f, "exit code {}", self.status),
            Some(signal) => match signal_name(signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

/// The signals that end programs in practice; numbers as on x86 and arm (signal(7)).
fn signal_name(signal: u32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        SIGKILL => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        SIGTERM => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// A container on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    /// Its id.
    pub id: String,
    /// The labels it was created with.
    pub labels: HashMap<String, String>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// The container's id.
    pub id: String,
    /// Host pid of its init; 0 if its shim did not answer.
    pub pid: u32,
    /// What its shim says.
    pub status: TaskStatus,
}

/// The state of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Its shim did not answer.
    Unknown,
    /// Prepared, the program not started.
    Created,
    /// The program runs.
    Running,
    /// The program ended; the task waits to be deleted.
    Stopped(Exit),
    /// Frozen.
    Paused,
    /// About to be frozen.
    Pausing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_says_how_the_program_ended() {
        let exit = |status| {
            let at = SystemTime::UNIX_EPOCH;
            Exit { status, at }.to_string()
        };
        assert_eq!(exit(0), "exit code 0");
        assert_eq!(exit(3), "exit code 3");
        assert_eq!(exit(137), "killed by signal 9 (SIGKILL)");
        assert_eq!(exit(128 + 34), "killed by signal 34");
        assert_eq!(exit(255), "exit code 255");
    }
}
