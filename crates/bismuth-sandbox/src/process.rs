//! Identifies a process by pid, start time and boot, and waits for its end through a pidfd.
//!
//! A process id is used again after its process is gone, so a number kept on disk proves nothing.
//! [`ProcessIdentity`] adds the boot and the start time; [`Process`] holds a pidfd, which refers to one
//! process for ever and becomes readable when it ends.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The number is no process id.
    #[error("{pid} is not a process id")]
    NotAPid {
        /// The number.
        pid: u32,
    },
    /// pidfd_open(2) failed; `ESRCH` when there is no such process.
    #[error("open process {pid}")]
    Open {
        /// The process.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of `/proc` could not be read.
    #[error("read {path}")]
    Read {
        /// The file.
        path: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file of `/proc` is not as proc(5) says.
    #[error("{path} is not as proc(5) describes it")]
    Malformed {
        /// The file.
        path: String,
    },
    /// pidfd_send_signal(2) failed.
    #[error("send signal {signal:?} to process {pid}")]
    Signal {
        /// The process.
        pid: u32,
        /// The signal.
        signal: Signal,
        /// The kernel's answer.
        source: io::Error,
    },
    /// poll(2) failed.
    #[error("wait for process {pid} to end")]
    Wait {
        /// The process.
        pid: u32,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Starts a program in a session of its own (setsid(2)): it hears no signal of our terminal or group, and goes on when we end.
/// Whoever lets go of the child without waiting for it leaves a zombie until this process ends.
///
/// # Errors
/// As [`Command::spawn`] says.
pub fn spawn_in_session(command: &mut Command) -> io::Result<Child> {
    let new_session = || {
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: between fork and exec there is one system call and nothing else; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(new_session) };
    command.spawn()
}

/// Names one process across restarts of ours and of the machine. Plain data, to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/{pid}/stat`, proc_pid_stat(5).
    pub started_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id` of the boot that `started_ticks` counts from.
    pub boot_id: String,
}

/// One running or just ended process.
#[derive(Debug)]
pub struct Process {
    identity: ProcessIdentity,
    pidfd: OwnedFd,
}

impl Process {
    /// Takes hold of the process with this number.
    ///
    /// # Errors
    /// [`Error::Open`] with `ESRCH` if there is none, and as [`Error`] says.
    pub fn open(pid: u32) -> Result<Self, Error> {
        let pidfd = open_pidfd(pid)?;
        // The number cannot be reused while its process is alive, so what `stat` says is about our
        // process if that is still alive afterwards; a zombie keeps its number and its `stat`.
        let identity = ProcessIdentity {
            pid,
            started_ticks: start_time(pid)?,
            boot_id: boot_id()?,
        };
        Ok(Self { identity, pidfd })
    }

    /// Takes hold of a process known from before, if it is still there: `None` if it is gone,
    /// its number belongs to another, or the machine was started anew.
    ///
    /// # Errors
    /// As [`Error`] says; a missing process is none.
    pub fn adopt(identity: &ProcessIdentity) -> Result<Option<Self>, Error> {
        match Self::open(identity.pid) {
            Ok(process) if process.identity == *identity => Ok(Some(process)),
            Ok(_) => Ok(None),
            Err(Error::Open { source, .. } | Error::Read { source, .. }) if is_gone(&source) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Process id in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// What to keep in order to [`Process::adopt`] it later.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Sends a signal. A process that has ended takes none, which is not an error.
    ///
    /// # Errors
    /// [`Error::Signal`].
    pub fn send_signal(&self, signal: Signal) -> Result<(), Error> {
        match rustix::process::pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(source) => Err(Error::Signal {
                pid: self.pid(),
                signal,
                source: source.into(),
            }),
        }
    }

    /// Waits at most `bound` for it to end and says whether it has.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn wait(&self, bound: Duration) -> Result<bool, Error> {
        wait(self.pid(), self.pidfd.as_fd(), bound)
    }
}

/// A process whose end can be awaited.
#[derive(Debug)]
pub struct WatchedProcess {
    identity: ProcessIdentity,
    pidfd: AsyncFd<OwnedFd>,
}

impl WatchedProcess {
    /// Registers the process with the tokio runtime this is called in.
    ///
    /// # Errors
    /// What the runtime's poller says, such as `ENOSPC`.
    pub fn new(process: Process) -> io::Result<Self> {
        let Process { identity, pidfd } = process;
        // SAFETY: the descriptor is owned and moved in, so it stays open and the same until the
        // `AsyncFd` is dropped, and `OwnedFd` gives the same number every time.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
        Ok(Self {
            identity,
            pidfd: pidfd.map_err(io::Error::from)?,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// What to keep in order to [`Process::adopt`] it later.
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Whether it has ended.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn has_ended(&self) -> Result<bool, Error> {
        wait(self.pid(), self.pidfd.get_ref().as_fd(), Duration::ZERO)
    }

    /// Returns when the process has ended. Cancel safe; at once if it has ended already.
    pub async fn ended(&self) {
        // A pidfd stays readable, so readiness is never cleared; the only error is that the
        // runtime is being shut down, and then nobody waits any more.
        let _ready = self.pidfd.readable().await;
    }
}

/// Whether a process has a handler for a signal (`SigCgt` in `/proc/{pid}/status`). The first
/// process of a pid namespace never sees a signal it has no handler for, but for SIGKILL.
///
/// # Errors
/// [`Error::Read`] with `ENOENT` or `ESRCH` if there is no such process, [`Error::Malformed`].
pub fn handles_signal(pid: u32, signal: Signal) -> Result<bool, Error> {
    let path = format!("/proc/{pid}/status");
    let status = read(&path)?;
    let caught = parse_caught(&status).ok_or(Error::Malformed { path })?;
    let number = u32::try_from(signal.as_raw()).unwrap_or(0);
    Ok((1..=64).contains(&number) && caught & (1 << (number - 1)) != 0)
}

/// Bit `n - 1` is signal `n`, proc_pid_status(5).
fn parse_caught(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("SigCgt:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Start time of a process in clock ticks since boot (field 22 of `/proc/{pid}/stat`).
///
/// # Errors
/// [`Error::Read`] with `ENOENT` or `ESRCH` if there is no such process.
pub fn start_time(pid: u32) -> Result<u64, Error> {
    let path = format!("/proc/{pid}/stat");
    let stat = read(&path)?;
    parse_start_time(&stat).ok_or(Error::Malformed { path })
}

/// The host id of user 0 in the user namespace of a process (first line of `/proc/{pid}/uid_map`).
///
/// # Errors
/// [`Error::Read`] with `ENOENT` or `ESRCH` if there is no such process, [`Error::Malformed`].
pub fn host_root_id(pid: u32) -> Result<u32, Error> {
    let path = format!("/proc/{pid}/uid_map");
    let map = read(&path)?;
    parse_host_root_id(&map).ok_or(Error::Malformed { path })
}

/// Inside, outside, count: user_namespaces(7).
fn parse_host_root_id(map: &str) -> Option<u32> {
    let mut fields = map.split_ascii_whitespace();
    (fields.next()? == "0").then(|| fields.next()?.parse().ok())?
}

/// The id of this boot of the machine.
///
/// # Errors
/// [`Error::Read`].
pub fn boot_id() -> Result<String, Error> {
    Ok(read("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The name in field 2 may hold anything, parentheses and spaces included, so fields are counted
/// from the last parenthesis: the next one is field 3.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

fn read(path: &str) -> Result<String, Error> {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })
}

fn open_pidfd(pid: u32) -> Result<OwnedFd, Error> {
    let number = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Error::NotAPid { pid })?;
    rustix::process::pidfd_open(number, PidfdFlags::empty()).map_err(|source| Error::Open {
        pid,
        source: source.into(),
    })
}

fn wait(pid: u32, pidfd: BorrowedFd<'_>, bound: Duration) -> Result<bool, Error> {
    poll_readable(pidfd, PollFlags::IN, bound).map_err(|source| Error::Wait { pid, source })
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT))
}

/// Polls one descriptor for at most `bound`; interrupted calls go on with what is left of it.
pub(crate) fn poll_readable(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    bound: Duration,
) -> io::Result<bool> {
    let end = std::time::Instant::now() + bound;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::from_borrowed_fd(fd, events)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caught_signal_is_told_from_one_that_is_not() {
        let status = "Name:\tx\nSigCgt:\t0000000000004002\n";
        assert_eq!(parse_caught(status), Some(0x4002));
        assert_eq!(parse_caught("Name:\tx\n"), None);
        let me = std::process::id();
        assert!(!handles_signal(me, Signal::KILL).unwrap());
    }

    #[test]
    fn the_host_id_of_a_containers_root_is_read_from_its_map() {
        let map = "         0    1065536      65536\n";
        assert_eq!(parse_host_root_id(map), Some(1_065_536));
        assert_eq!(parse_host_root_id("1000 0 1\n"), None);
    }

    #[test]
    fn the_start_time_is_found_behind_a_hostile_name() {
        let stat = "7 (a) R 1 (b) 2) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9";
        assert_eq!(parse_start_time(stat), Some(4242));
        assert_eq!(parse_start_time("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_is_watched_to_its_end() {
        let mut child = Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("spawn cat");
        let process = Process::open(child.id()).expect("open");
        assert!(!process.wait(Duration::ZERO).expect("poll"));
        let again = Process::adopt(process.identity()).expect("adopt");
        assert_eq!(again.expect("still there").pid(), child.id());

        process.send_signal(Signal::KILL).expect("kill");
        assert!(process.wait(Duration::from_secs(10)).expect("poll"));
        child.wait().expect("reap");
        process.send_signal(Signal::KILL).expect("nothing to do");
        assert!(Process::adopt(process.identity()).expect("adopt").is_none());
    }

    #[test]
    fn a_reused_number_is_not_the_same_process() {
        let me = Process::open(std::process::id()).expect("open");
        let mut other = me.identity().clone();
        other.started_ticks += 1;
        assert!(Process::adopt(&other).expect("adopt").is_none());
        let mut other = me.identity().clone();
        other.boot_id = "another boot".to_owned();
        assert!(Process::adopt(&other).expect("adopt").is_none());
    }
}
