//! The listening socket: accepts connections from outside the PID namespace, and refuses them when descriptors run out.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use super::{connection::Connection, exhausted};
use crate::sys::{self, Epoll};

/// How many connections may wait to be accepted. A burst of requests connects faster than
/// programs are started, and a full queue would fail non-blocking connects; the kernel cuts it to
/// `net.core.somaxconn` (4096).
const BACKLOG: libc::c_int = 4096;

/// The listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    listener: UnixListener,
    /// Only peers outside our PID namespace may connect.
    only_from_outside: bool,
    /// Keeps a place in the descriptor table, so that a connection for which there is none can
    /// be accepted and told so. `None` while there was no descriptor even for this.
    reserve: Option<OwnedFd>,
    /// The kernel had no memory for another connection a moment ago.
    retry: bool,
}

/// What accept(2) came to.
pub(super) enum AcceptOutcome {
    Accepted(OwnedFd),
    Refused,
    Empty,
}

impl Listener {
    /// Listens at `path`, where nothing is seen before it listens.
    pub(super) fn open(path: &Path, only_from_outside: bool, epoll: &Epoll) -> io::Result<Self> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&unfinished)?;
        listener.set_nonblocking(true)?;
        sys::listen(listener.as_fd(), BACKLOG)?;
        fs::rename(&unfinished, path)?;
        Ok(Self {
            listener,
            only_from_outside,
            reserve: Some(epoll.reserve()?),
            retry: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Whether accept must be tried again soon, because the kernel had no memory for a connection.
    pub(super) fn needs_retry(&self) -> bool {
        self.retry
    }

    pub(super) fn accept(&mut self, epoll: &Epoll) -> AcceptOutcome {
        self.retry = false;
        match sys::accept(self.listener.as_fd()) {
            Ok(socket) if self.is_allowed(socket.as_fd()) => AcceptOutcome::Accepted(socket),
            Ok(_) => AcceptOutcome::Refused,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => AcceptOutcome::Empty,
                Some(libc::EINTR | libc::ECONNABORTED) => AcceptOutcome::Refused,
                Some(libc::EMFILE) => self.refuse_without_descriptor(&error, epoll),
                // ENFILE, ENOBUFS, ENOMEM: the machine's troubles, which pass.
                _ => {
                    self.retry = true;
                    AcceptOutcome::Empty
                }
            },
        }
    }

    /// A peer outside our PID namespace has no number in it. No process inside can look like that.
    fn is_allowed(&self, socket: BorrowedFd<'_>) -> bool {
        match sys::peer(socket) {
            Ok((pid, _)) if self.only_from_outside => pid == 0,
            // SAFETY: takes nothing and cannot fail.
            Ok((_, uid)) => uid == 0 || uid == unsafe { libc::getuid() },
            Err(_) => false,
        }
    }

    /// Uses the reserved descriptor to tell the next in line why it cannot be served.
    fn refuse_without_descriptor(&mut self, error: &io::Error, epoll: &Epoll) -> AcceptOutcome {
        self.reserve = None;
        let outcome = match sys::accept(self.listener.as_fd()) {
            Ok(socket) => {
                if self.is_allowed(socket.as_fd()) {
                    let full = exhausted("accept one more execution", error);
                    Connection::new(socket).reply_last(&full);
                }
                AcceptOutcome::Refused
            }
            Err(_) => {
                self.retry = true;
                AcceptOutcome::Empty
            }
        };
        self.reserve = epoll.reserve().ok();
        outcome
    }
}
