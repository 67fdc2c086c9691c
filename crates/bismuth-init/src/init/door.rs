//! Who may come in, and what happens when there is no room.

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
pub(super) struct Door {
    listener: UnixListener,
    /// Only peers outside our PID namespace may enter.
    only_from_outside: bool,
    /// Keeps a place in the descriptor table, so that a connection for which there is none can
    /// be accepted and told so. `None` while there was no descriptor even for this.
    reserve: Option<OwnedFd>,
    /// The kernel had no memory for another connection a moment ago.
    shut: bool,
}

/// What came of looking outside.
pub(super) enum Admission {
    Entered(OwnedFd),
    Refused,
    Nobody,
}

impl Door {
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
            shut: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Whether it should be looked at again soon, because the kernel could not let somebody in.
    pub(super) fn is_shut(&self) -> bool {
        self.shut
    }

    pub(super) fn next(&mut self, epoll: &Epoll) -> Admission {
        self.shut = false;
        match sys::accept(self.listener.as_fd()) {
            Ok(socket) if self.may_enter(socket.as_fd()) => Admission::Entered(socket),
            Ok(_) => Admission::Refused,
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN) => Admission::Nobody,
                Some(libc::EINTR | libc::ECONNABORTED) => Admission::Refused,
                Some(libc::EMFILE) => self.refuse_for_want_of_room(&error, epoll),
                // ENFILE, ENOBUFS, ENOMEM: the machine's troubles, which pass.
                _ => {
                    self.shut = true;
                    Admission::Nobody
                }
            },
        }
    }

    /// A peer outside our PID namespace has no number in it. Nobody inside can look like that.
    fn may_enter(&self, socket: BorrowedFd<'_>) -> bool {
        match sys::peer(socket) {
            Ok((pid, _)) if self.only_from_outside => pid == 0,
            // SAFETY: takes nothing and cannot fail.
            Ok((_, uid)) => uid == 0 || uid == unsafe { libc::getuid() },
            Err(_) => false,
        }
    }

    /// Uses the reserved descriptor to tell the next in line why it cannot be served.
    fn refuse_for_want_of_room(&mut self, error: &io::Error, epoll: &Epoll) -> Admission {
        self.reserve = None;
        let admission = match sys::accept(self.listener.as_fd()) {
            Ok(socket) => {
                if self.may_enter(socket.as_fd()) {
                    let full = exhausted("accept one more execution", error);
                    Connection::new(socket).reply_last(&full);
                }
                Admission::Refused
            }
            Err(_) => {
                self.shut = true;
                Admission::Nobody
            }
        };
        self.reserve = epoll.reserve().ok();
        admission
    }
}
