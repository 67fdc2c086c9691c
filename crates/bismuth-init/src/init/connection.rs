//! State of one connection, which is one execution or one injection.
//!
//! ```text
//!   Receiving { decoder, fds } ── request complete ──► Running { pid } ── Exited ──► gone
//!        └── refused, closed ──► gone                       └── closed ──► killed, gone
//! ```

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use libc::pid_t;

use crate::{
    protocol::{
        DESCRIPTORS, ExecRequest, FailureKind, InjectRequest, ProtocolError, Reply, Request,
        RequestDecoder, VERSION,
    },
    scm,
};

/// An ordinary request (arguments, and an environment with the headers of an HTTP request) is
/// read in one step; clearing much more for each would show in the time it takes.
const PIECE_BYTES: usize = 16 * 1024;

#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    state: State,
    /// Replies that go out with the next one: `Hello` mostly travels with `Spawned`.
    outgoing: Vec<u8>,
}

#[derive(Debug)]
enum State {
    Receiving {
        decoder: RequestDecoder,
        fds: Vec<OwnedFd>,
    },
    Running {
        pid: pid_t,
    },
}

/// What a connection came to.
pub(super) enum Progress {
    Waits,
    Request(ExecRequest, [OwnedFd; DESCRIPTORS]),
    Inject(InjectRequest),
    Closed,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Self {
        let mut outgoing = Vec::new();
        Reply::Hello { version: VERSION }.encode_into(&mut outgoing);
        let state = State::Receiving {
            decoder: RequestDecoder::default(),
            fds: Vec::new(),
        };
        Self {
            socket,
            state,
            outgoing,
        }
    }

    /// The process that runs for it.
    pub(super) fn leader(&self) -> Option<pid_t> {
        match self.state {
            State::Receiving { .. } => None,
            State::Running { pid } => Some(pid),
        }
    }

    /// Takes in what has arrived.
    pub(super) fn advance(&mut self) -> Progress {
        let mut piece = [0; PIECE_BYTES];
        loop {
            let State::Receiving { decoder, fds } = &mut self.state else {
                // Nothing may follow a request, so this is the end of the stream or as good.
                return Progress::Closed;
            };
            let received = match scm::receive(self.socket.as_fd(), &mut piece, fds) {
                Ok(received) => received,
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => continue,
                    io::ErrorKind::WouldBlock if self.flush() => return Progress::Waits,
                    _ => return Progress::Closed,
                },
            };
            if received.bytes == 0 {
                return Progress::Closed;
            }
            // Fewer than three with a truncated message: there was no room for the rest.
            if received.truncated && fds.len() < DESCRIPTORS {
                let error = io::Error::from_raw_os_error(libc::EMFILE);
                return self.refuse(&super::exhausted("receive the descriptors", &error));
            }
            let outcome = decoder.push(&piece[..received.bytes]);
            let outcome = match outcome {
                Ok(None) => continue,
                Ok(Some(Request::Spawn(request))) => {
                    exactly(fds, received.truncated).map(|fds| Progress::Request(request, fds))
                }
                Ok(Some(Request::Inject(injection))) => {
                    exactly::<0>(fds, received.truncated).map(|[]| Progress::Inject(injection))
                }
                Err(error) => Err(error),
            };
            return match outcome {
                Ok(progress) => progress,
                Err(error) => self.refuse(&Reply::SpawnFailed {
                    kind: FailureKind::Protocol,
                    errno: libc::EPROTO,
                    what: error.to_string(),
                }),
            };
        }
    }

    /// Reports that the program runs. False if the peer cannot be told.
    pub(super) fn running(&mut self, pid: pid_t) -> bool {
        self.state = State::Running { pid };
        let pid = pid.unsigned_abs();
        Reply::Spawned { pid }.encode_into(&mut self.outgoing);
        self.flush()
    }

    /// Sends the last reply. If that fails the peer has closed the connection, which ends it as well.
    pub(super) fn reply_last(&mut self, reply: &Reply) {
        reply.encode_into(&mut self.outgoing);
        let _sent = self.flush();
    }

    fn refuse(&mut self, reply: &Reply) -> Progress {
        self.reply_last(reply);
        Progress::Closed
    }

    /// Sends the pending replies. False if the peer cannot be told: all replies of a connection together fit into any
    /// socket buffer, so a short write can only mean that the peer is not worth waiting for.
    pub(super) fn flush(&mut self) -> bool {
        if self.outgoing.is_empty() {
            return true;
        }
        let sent = scm::send(self.socket.as_fd(), &self.outgoing, None);
        let all = matches!(sent, Ok(sent) if sent == self.outgoing.len());
        self.outgoing.clear();
        all
    }
}

/// Exactly so many descriptors, no more and no fewer.
fn exactly<const N: usize>(
    fds: &mut Vec<OwnedFd>,
    truncated: bool,
) -> Result<[OwnedFd; N], ProtocolError> {
    let wrong = |count| ProtocolError::Descriptors { count, expected: N };
    let count = fds.len() + usize::from(truncated);
    if count != N {
        return Err(wrong(count));
    }
    std::mem::take(fds)
        .try_into()
        .map_err(|fds: Vec<_>| wrong(fds.len()))
}
