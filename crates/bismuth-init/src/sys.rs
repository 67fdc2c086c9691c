//! The system calls that std does not have, each behind a safe function.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::{c_int, pid_t};

/// -1 means that `errno` says why.
pub(crate) fn check(result: c_int) -> io::Result<c_int> {
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

fn check_fd(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the call that was just checked made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for many descriptors; each is known by a number.
#[derive(Debug)]
pub(crate) struct Epoll(OwnedFd);

/// One of them has something to say.
#[derive(Clone, Copy)]
pub(crate) struct Ready(libc::epoll_event);

impl Ready {
    pub(crate) const NONE: Self = Self(libc::epoll_event { events: 0, u64: 0 });

    pub(crate) fn token(self) -> u64 {
        self.0.u64
    }
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: takes no pointers.
        check_fd(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Reports `fd` as `token` while it can be read or its peer has hung up. It is forgotten when
    /// `fd` is closed.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | libc::EPOLLRDHUP) as u32,
            u64: token,
        };
        let (epoll, fd) = (self.0.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: `event` lives through the call, which only reads it.
        check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Fills the front of `ready`; waits at most `timeout_ms`, or for ever if that is -1.
    pub(crate) fn wait(&self, ready: &mut [Ready], timeout_ms: c_int) -> io::Result<usize> {
        let room = c_int::try_from(ready.len()).unwrap_or(c_int::MAX);
        let events = ready.as_mut_ptr().cast::<libc::epoll_event>();
        // SAFETY: `Ready` is nothing but an epoll_event, and there is room for `room` of them.
        let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events, room, timeout_ms) };
        match check(count) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Another descriptor for it, which costs a place in the table and nothing else.
    pub(crate) fn reserve(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: a sigset_t is plain memory, and sigemptyset makes it a valid empty one; sigaddset
    // fails only for numbers that are not signals.
    unsafe {
        let mut set = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Gives every signal its default disposition, blocks `signals` and reads them from a descriptor.
#[derive(Debug)]
pub(crate) struct Signals(OwnedFd);

/// A signal that has arrived.
#[derive(Debug)]
pub(crate) struct ReceivedSignal {
    pub(crate) signal: c_int,
    /// 0 if the sender is outside our PID namespace, or is the kernel.
    pub(crate) sender: u32,
}

impl Signals {
    pub(crate) fn take_over(signals: &[c_int]) -> io::Result<Self> {
        (1..=LAST_SIGNAL).for_each(default_disposition);
        let set = signal_set(signals);
        // SAFETY: `set` lives through the calls, which only read it.
        unsafe {
            check(libc::sigprocmask(
                libc::SIG_SETMASK,
                &raw const set,
                ptr::null_mut(),
            ))?;
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            check_fd(libc::signalfd(-1, &raw const set, flags)).map(Self)
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd as _;
        self.0.as_fd()
    }

    /// The next signal that has arrived, if any.
    pub(crate) fn next(&self) -> io::Result<Option<ReceivedSignal>> {
        // SAFETY: signalfd_siginfo is made of integers, for which zero is a value.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let size = mem::size_of_val(&info);
        // SAFETY: there is room for `size` bytes at `info`.
        let read = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size) };
        if read == -1 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        Ok(Some(ReceivedSignal {
            signal: info.ssi_signo as c_int,
            sender: info.ssi_pid,
        }))
    }
}

/// The kernel's last signal (`_NSIG`); `SIGRTMAX` is the last of the C library.
const LAST_SIGNAL: c_int = 64;

/// Ignored signals would be inherited by every program, so we must not inherit any either.
///
/// The C library keeps 32 and 33 for itself and refuses them; whoever started us may have ignored
/// those too. Hence the bare system call.
fn default_disposition(signal: c_int) {
    // The kernel's `struct sigaction` on 64-bit machines: handler (SIG_DFL is 0), flags, restorer,
    // and a mask of 8 bytes; see rt_sigaction(2), "C library/kernel differences".
    let action = [0_u64; 4];
    let (number, none) = (libc::SYS_rt_sigaction, ptr::null_mut::<u64>());
    // SAFETY: `action` is the structure described above, lives through the call, and installs no
    // handler. SIGKILL and SIGSTOP are refused, and need no change.
    unsafe { libc::syscall(number, signal, action.as_ptr(), none, 8_usize) };
}

/// Unblocks every signal on this thread. Safe to call between clone and execve.
pub(crate) fn unblock_signals() {
    let none = signal_set(&[]);
    // SAFETY: `none` lives through the call, which only reads it.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// The next connection, non-blocking.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: null pointers say that the peer's address is not wanted.
    check_fd(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            ptr::null_mut(),
            ptr::null_mut(),
            flags,
        )
    })
}

/// Lets `backlog` connections wait. std listens with a backlog of its own choice.
pub(crate) fn listen(listener: BorrowedFd<'_>, backlog: c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(listener.as_raw_fd(), backlog) })?;
    Ok(())
}

/// Who connected: its process id as seen in our PID namespace (0: it is not in there), and its
/// user id as seen in our user namespace.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> io::Result<(pid_t, libc::uid_t)> {
    let mut credentials = libc::ucred {
        pid: -1,
        uid: libc::uid_t::MAX,
        gid: libc::gid_t::MAX,
    };
    let mut size = mem::size_of_val(&credentials) as libc::socklen_t;
    // SAFETY: there is room for `size` bytes at `credentials`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut size,
        )
    })?;
    Ok((credentials.pid, credentials.uid))
}

/// How a child ended; it is reaped by this.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

/// The id of a child that has ended and not been reaped, if there is one.
///
/// # Errors
/// `ECHILD` when there is no child at all.
pub(crate) fn next_ended() -> io::Result<Option<pid_t>> {
    let info = waitid(libc::P_ALL, 0, libc::WNOHANG | libc::WNOWAIT)?;
    // SAFETY: waitid filled it in, or left it zeroed when nobody had ended.
    let pid = unsafe { info.si_pid() };
    Ok((pid != 0).then_some(pid))
}

/// Reaps a child that has ended or is about to.
pub(crate) fn reap(pid: pid_t) -> io::Result<Ended> {
    let info = waitid(libc::P_PID, pid as libc::id_t, 0)?;
    // SAFETY: waitid filled it in for a child that has ended.
    let status = unsafe { info.si_status() };
    Ok(match info.si_code {
        libc::CLD_EXITED => Ended::Code(status),
        _ => Ended::Signal(status),
    })
}

fn waitid(which: libc::idtype_t, id: libc::id_t, flags: c_int) -> io::Result<libc::siginfo_t> {
    loop {
        // SAFETY: siginfo_t is plain memory, and there is room for one.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            let flags = flags | libc::WEXITED;
            (libc::waitid(which, id, &raw mut info, flags), info)
        };
        match check(result) {
            Ok(_) => return Ok(info),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Kills a process, or a process group if `target` is negative. That it is gone already is fine.
pub(crate) fn kill(target: pid_t) {
    // SAFETY: takes no pointers.
    unsafe { libc::kill(target, libc::SIGKILL) };
}

/// Closes every descriptor that whoever started us left open, beyond the standard three.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: called before this process opens anything, so no OwnedFd loses its descriptor.
    check(unsafe { libc::close_range(3, u32::MAX, 0) })?;
    Ok(())
}

/// Forbids processes of our own user to trace us or to look into `/proc/{us}`.
pub(crate) fn forbid_tracing() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })?;
    Ok(())
}

/// Makes orphans below us our children, as those of process 1 are without asking. Safe to call
/// between clone and execve, which it outlasts.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })?;
    Ok(())
}

/// Raises our limit of descriptors as far as we may; gives what it was before.
pub(crate) fn raise_descriptor_limit() -> io::Result<libc::rlimit> {
    let mut before = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `before` and `raised` live through the calls.
    unsafe {
        check(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before))?;
        let raised = libc::rlimit {
            rlim_cur: before.rlim_max,
            ..before
        };
        check(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised))?;
    }
    Ok(before)
}

/// Our supplementary groups.
pub(crate) fn groups() -> io::Result<Vec<libc::gid_t>> {
    // SAFETY: with a size of 0 it only counts; then there is room for as many. We are the only
    // thread, so their number does not change between.
    unsafe {
        let count = check(libc::getgroups(0, ptr::null_mut()))?;
        let mut groups = vec![0; count as usize];
        let count = check(libc::getgroups(count, groups.as_mut_ptr()))?;
        groups.truncate(count as usize);
        Ok(groups)
    }
}

/// The raw numbers of descriptors.
pub(crate) fn raw(fds: &[OwnedFd]) -> Vec<RawFd> {
    fds.iter().map(AsRawFd::as_raw_fd).collect()
}
