//! Creates namespaces in a short-lived clone(2) child, which lives until they are opened.
//!
//! A user namespace cannot be made by a thread of a process that has others (`unshare` answers
//! `EINVAL`), so it takes a child. `fork` in a large multi-threaded process copies its page tables
//! (milliseconds) and lets only async-signal-safe code run; an `exec` of a tool costs a
//! millisecond and a dependency. The child here is cheaper than both: it shares memory and
//! descriptors with us (`CLONE_VM | CLONE_FILES`), so that nothing is copied and no socket is held
//! open by it, and it runs one function that makes three system calls without libc, allocates
//! nothing, and touches nothing of ours but its own small stack:
//!
//! 1. ask to be killed when the calling thread ends (so that `kill -9` of bismuthd leaves nothing),
//! 2. check that this has not happened already,
//! 3. wait to be killed.
//!
//! It starts with all signals blocked, or a Ctrl-C at the terminal would run our handlers in it. It
//! has no exit signal, so neither tokio's nor anybody's `SIGCHLD` handling notices it; it is reaped
//! here, through its pidfd. It has all capabilities in the new user namespace, in which nobody else
//! can be before its descriptor leaves this module, and then the child is gone.

use std::ffi::c_void;
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::process::Signal;

use super::Error;
use crate::PathError;
use crate::ids::IdRange;

/// Enough for a function that calls three system calls, also in a debug build.
const STACK_BYTES: usize = 32 * 1024;

/// 16 bytes: the alignment of a stack in the x86-64 and AArch64 calling conventions.
type StackUnit = u128;

/// The running child. Ended and reaped when dropped.
#[derive(Debug)]
pub(super) struct NamespaceChild {
    pid: libc::pid_t,
    pidfd: OwnedFd,
    /// The child runs on it: freed only after the child is reaped.
    stack: ManuallyDrop<Vec<StackUnit>>,
    reaped: bool,
}

impl NamespaceChild {
    /// Starts a child in new namespaces (`CLONE_NEW…`).
    pub(super) fn start(namespaces: libc::c_int) -> Result<Self, Error> {
        let failed = |source| Error::Child {
            act: "start",
            source,
        };
        let mut stack = vec![0; STACK_BYTES / size_of::<StackUnit>()];
        let mut mask = SigSet::empty();
        SigSet::all()
            .thread_swap_mask(SigmaskHow::SIG_SETMASK)
            .map(|previous| mask = previous)
            .map_err(|error| failed(error.into()))?;
        let child = clone(&mut stack, namespaces);
        let unmasked = mask.thread_set_mask();
        let (pid, pidfd) = child.map_err(failed)?;
        let child = Self {
            pid,
            pidfd,
            stack: ManuallyDrop::new(stack),
            reaped: false,
        };
        unmasked.map_err(|error| failed(error.into()))?;
        Ok(child)
    }

    /// Maps the ids from 0 up inside to `ids` on the host, for users and groups.
    pub(super) fn write_maps(&self, ids: IdRange) -> Result<(), Error> {
        let map = format!("0 {} {}\n", ids.host_start, ids.size);
        for file in ["uid_map", "gid_map"] {
            let path = self.proc_file(file);
            fs::write(&path, &map).map_err(|source| Error::WriteMap {
                path,
                map: map.trim_end().to_owned(),
                source,
            })?;
        }
        Ok(())
    }

    /// Opens one of the child's namespaces by its name in `/proc/{pid}/ns`.
    pub(super) fn open(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = self.proc_file("ns").join(name);
        let file = fs::File::open(&path).map_err(PathError::at("open namespace", &path))?;
        Ok(file.into())
    }

    /// Ends the child.
    pub(super) fn end(mut self) -> Result<(), Error> {
        self.reap()
            .map_err(|source| Error::Child { act: "end", source })
    }

    fn proc_file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    fn reap(&mut self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL) {
            // ESRCH: it is dead already and wants to be reaped.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        // __WALL, as a child without an exit signal is not waited for otherwise.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::__WALL;
        loop {
            match waitid(Id::PIDFd(self.pidfd.as_fd()), flags) {
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.reaped = true;
        Ok(())
    }
}

impl Drop for NamespaceChild {
    fn drop(&mut self) {
        if !self.reaped
            && let Err(error) = self.reap()
        {
            // Better 32 KiB lost than a stack pulled from under a running child.
            tracing::error!(pid = self.pid, %error, "cannot end the process that makes namespaces");
            return;
        }
        // SAFETY: the child is reaped, so nothing runs on the stack, and it is dropped only here.
        unsafe { ManuallyDrop::drop(&mut self.stack) }
    }
}

/// Starts [`idle`] in new namespaces on the given stack.
fn clone(stack: &mut [StackUnit], namespaces: libc::c_int) -> io::Result<(libc::pid_t, OwnedFd)> {
    let flags = namespaces | libc::CLONE_VM | libc::CLONE_FILES | libc::CLONE_PIDFD;
    let parent = std::process::id() as usize as *mut c_void;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: the stack grows down from its aligned end and is kept by the caller until the child
    // is reaped. `idle` shares our memory but only makes system calls that use neither libc's
    // thread-local data (which is the caller's) nor anything else of ours, and never returns to
    // Rust. With CLONE_PIDFD the kernel writes the descriptor to the fifth argument, which is
    // alive across the call; the other two variadic arguments are unused without their flags.
    let pid = unsafe {
        let top = stack.as_mut_ptr_range().end.cast::<c_void>();
        libc::clone(idle, top, flags, parent, std::ptr::from_mut(&mut pidfd))
    };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: clone succeeded, so `pidfd` is a new descriptor that nobody else owns.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// The child's whole life. rustix makes system calls directly, without libc's `errno`.
extern "C" fn idle(parent: *mut c_void) -> libc::c_int {
    if rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return 1;
    }
    // The parent may have died before the line above; then nobody would end us.
    let found = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if found as usize != parent as usize {
        return 1;
    }
    loop {
        rustix::event::pause();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::poll_readable;
    use rustix::event::PollFlags;
    use std::time::Duration;

    #[test]
    fn the_child_does_not_outlive_the_thread_that_started_it() {
        let pidfd = std::thread::spawn(|| {
            let child = NamespaceChild::start(libc::CLONE_NEWUSER).expect("start");
            let pidfd = child.pidfd.try_clone().expect("duplicate");
            let alive = !poll_readable(pidfd.as_fd(), PollFlags::IN, Duration::ZERO).expect("poll");
            assert!(alive, "the child ended by itself");
            // It sleeps only when it has asked for our death to be its own. (A process that dies
            // earlier is noticed by its id; a thread alone, as here, would not be.)
            while !is_sleeping(&child) {
                std::thread::yield_now();
            }
            // As if the process were killed here: nothing of ours ends the child.
            std::mem::forget(child);
            pidfd
        })
        .join()
        .expect("the thread is well");
        let bound = Duration::from_secs(10);
        assert!(poll_readable(pidfd.as_fd(), PollFlags::IN, bound).expect("poll"));
        waitid(
            Id::PIDFd(pidfd.as_fd()),
            WaitPidFlag::WEXITED | WaitPidFlag::__WALL,
        )
        .expect("reap");
    }

    fn is_sleeping(child: &NamespaceChild) -> bool {
        let stat = fs::read_to_string(child.proc_file("stat")).expect("read");
        stat.rsplit_once(") ")
            .is_some_and(|(_, fields)| fields.starts_with('S'))
    }
}
