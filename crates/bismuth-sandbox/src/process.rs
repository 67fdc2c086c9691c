//! A process that may be adopted: known by more than its number.
//!
//! A process id is used again after its process is gone, so a number kept on disk proves nothing.
//! [`Identity`] adds the boot and the start time; [`Process`] holds a pidfd, which refers to one
//! process for ever and becomes readable when it ends.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

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

/// Names one process across restarts of ours and of the machine. Plain data, to be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id in our pid namespace.
    pub pid: u32,
    /// Start time in clock ticks since boot: field 22 of `/proc/{pid}/stat`, proc_pid_stat(5).
    pub started_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id` of the boot that `started_ticks` counts from.
    pub boot_id: String,
}

/// One running or just ended process. Readable (poll, epoll) as soon as it has ended.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
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
        let identity = Identity {
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
    pub fn adopt(identity: &Identity) -> Result<Option<Self>, Error> {
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
    pub fn identity(&self) -> &Identity {
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

    /// Whether it has ended.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn has_ended(&self) -> Result<bool, Error> {
        self.wait(Duration::ZERO)
    }

    /// Waits at most `bound` for it to end and says whether it has.
    ///
    /// # Errors
    /// [`Error::Wait`].
    pub fn wait(&self, bound: Duration) -> Result<bool, Error> {
        poll_readable(self.pidfd.as_fd(), PollFlags::IN, bound).map_err(|source| Error::Wait {
            pid: self.pid(),
            source,
        })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
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
    use std::process::Command;

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
        assert!(!process.has_ended().expect("poll"));
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
