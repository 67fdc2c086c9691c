//! Client of bismuth-init: one connection, one execution.
//!
//! ```text
//!  connect ─► request + 3 descriptors ─► Hello ─► Spawned ─► … ─► Exited
//!                                           └─► SpawnFailed          drop at any time: the program is killed
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bismuth_init::protocol::{ProtocolError, RequestError};
use bismuth_init::{ExecRequest, Exit, FailureKind, OutgoingRequest, Reply, ReplyDecoder};
use thiserror::Error;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// Replies are a few dozen bytes.
const BUFFER: usize = 512;
/// bismuth-init answers in well under a millisecond; a function that keeps all of the container's
/// processor time can delay it. After this the container is not worth waiting for.
const SPAWN_BOUND: Duration = Duration::from_secs(10);

/// Why there is no execution.
#[derive(Debug, Error)]
pub enum InitClientError {
    #[error("connect to bismuth-init")]
    Connect(#[source] io::Error),
    #[error("encode the execution request")]
    Request(#[from] RequestError),
    #[error("exchange messages with bismuth-init")]
    Broken(#[source] io::Error),
    #[error("decode the reply of bismuth-init")]
    Protocol(#[from] ProtocolError),
    #[error("bismuth-init closed the connection")]
    Closed,
    #[error("bismuth-init did not start the program within {} s", SPAWN_BOUND.as_secs())]
    Timeout,
    #[error("{what}")]
    Spawn { kind: FailureKind, what: String },
}

impl InitClientError {
    /// Whether bismuth-init was not there, or went away: the sign of a container that has ended.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Broken(_) | Self::Closed)
    }
}

/// A running program. Dropping it kills the program and its process group.
#[derive(Debug)]
pub struct Execution {
    stream: UnixStream,
    decoder: ReplyDecoder,
}

impl Execution {
    /// Has the program started; its standard streams are `fds`.
    pub async fn spawn(
        socket: &Path,
        request: &ExecRequest,
        fds: [BorrowedFd<'_>; 3],
    ) -> Result<Self, InitClientError> {
        tokio::time::timeout(SPAWN_BOUND, Self::try_spawn(socket, request, fds))
            .await
            .unwrap_or(Err(InitClientError::Timeout))
    }

    async fn try_spawn(
        socket: &Path,
        request: &ExecRequest,
        fds: [BorrowedFd<'_>; 3],
    ) -> Result<Self, InitClientError> {
        let stream = UnixStream::connect(socket)
            .await
            .map_err(InitClientError::Connect)?;
        let mut outgoing = OutgoingRequest::new(request, fds)?;
        let sent = stream
            .async_io(Interest::WRITABLE, || outgoing.advance(stream.as_fd()))
            .await;
        let mut execution = Self::on(stream);
        loop {
            // When sending failed init may have said why; that is the better error.
            match execution.next_reply().await {
                Ok(Reply::Hello { .. }) => {}
                Ok(Reply::Spawned { .. }) => return Ok(execution),
                Ok(Reply::SpawnFailed { kind, what, .. }) => {
                    return Err(InitClientError::Spawn { kind, what });
                }
                Ok(Reply::Exited(_) | Reply::Injected) => return Err(InitClientError::Closed),
                Err(error) => {
                    sent.map_err(InitClientError::Broken)?;
                    return Err(error);
                }
            }
        }
    }

    /// An execution on a connection to bismuth-init, or to a test that stands in for it.
    pub(super) fn on(stream: UnixStream) -> Self {
        Self {
            stream,
            decoder: ReplyDecoder::new(),
        }
    }

    /// Ready when the program has ended.
    pub fn poll_exited(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Exit, InitClientError>> {
        loop {
            if let Reply::Exited(exit) = ready!(self.poll_reply(context))? {
                return Poll::Ready(Ok(exit));
            }
        }
    }

    async fn next_reply(&mut self) -> Result<Reply, InitClientError> {
        std::future::poll_fn(|context| self.poll_reply(context)).await
    }

    /// Keeps what was read in the decoder, so nothing is lost between two calls.
    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply, InitClientError>> {
        loop {
            if let Some(reply) = self.decoder.next_reply()? {
                return Poll::Ready(Ok(reply));
            }
            ready!(self.stream.poll_read_ready(context)).map_err(InitClientError::Broken)?;
            let mut buffer = [0; BUFFER];
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Poll::Ready(Err(InitClientError::Closed)),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(InitClientError::Broken(error))),
            }
        }
    }
}
