//! Reads the output of a running program, and streams it as the body of the answer.
//!
//! ```text
//!  exit?   ── known ──► what the pipe holds at that moment, then Ended
//!  output? ── bytes ──► Printed            ── its end ──► only the exit is waited for
//!  body?   ── broke ──► ExecError::Upload
//!  clock?  ── late  ──► ExecError::FirstOutputTimeout, IdleTimeout, UploadTimeout
//! ```
//!
//! The exit is looked at first, and it ends the output: what a program has printed is in the pipe
//! when it ends, and whatever has the pipe open after that is a left-over that is being killed.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bismuth_http::BodyError;
use bismuth_init::Exit;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::{Instant, Sleep};

use super::stdin::StdinCopy;
use crate::invoke::init_client::{Execution, InitClientError};

/// Read from a program at once: the kernel's pipe buffer.
const CHUNK: usize = 64 * 1024;
/// With less capacity than this a new buffer is made.
const MIN_CAPACITY: usize = 4 * 1024;

/// The exit code, as a trailer.
const EXIT_CODE: HeaderName = HeaderName::from_static("x-bismuth-exit-code");

/// Why there is no answer, or why it broke off.
#[derive(Debug, Error)]
pub(super) enum ExecError {
    #[error("read the program's output")]
    Output(#[source] io::Error),
    #[error("the program printed nothing within {} ms and was killed", .0.as_millis())]
    FirstOutputTimeout(Duration),
    #[error("nothing went into the program or out of it for {} ms", .0.as_millis())]
    IdleTimeout(Duration),
    #[error("the request body was silent for {} ms", .0.as_millis())]
    UploadTimeout(Duration),
    #[error("the request body could not be read")]
    Upload(#[source] BodyError),
    #[error("the program ended with {0}")]
    Killed(Exit),
    #[error("learn how the program ended")]
    Init(#[source] InitClientError),
}

/// How long a program may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadlines {
    /// To its first output, from its start or from the last byte of the body that it took.
    pub(super) first_output: Duration,
    /// In which neither the body nor the output moves.
    pub(super) idle: Duration,
}

/// What a program does next.
pub(super) enum ProgramEvent {
    Printed(Bytes),
    Ended(Exit),
}

/// A program whose output is being read. Dropping it kills the program.
pub(super) struct RunningProgram {
    /// The first to be dropped: the program is to be killed before its input can end.
    execution: Execution,
    output: pipe::Receiver,
    stdin_copy: StdinCopy,
    deadlines: Deadlines,
    buffer: BytesMut,
    state: State,
    deadline_timer: Pin<Box<Sleep>>,
    has_printed: bool,
    /// Since when somebody waits, if they do.
    waits_since: Option<Instant>,
}

enum State {
    Printing,
    /// It has closed its output.
    Closed,
    /// It has ended, and so many bytes of what it printed are in the pipe.
    Ended(Result<Exit, InitClientError>, u64),
    /// Its end was reported to the caller.
    Reported,
}

impl RunningProgram {
    pub(super) fn new(
        execution: Execution,
        output: pipe::Receiver,
        stdin_copy: StdinCopy,
        deadlines: Deadlines,
    ) -> Self {
        let look_at = stdin_copy.last() + deadlines.first_output.min(deadlines.idle);
        Self {
            execution,
            output,
            stdin_copy,
            deadlines,
            buffer: BytesMut::new(),
            state: State::Printing,
            deadline_timer: Box::pin(tokio::time::sleep_until(look_at)),
            has_printed: false,
            waits_since: None,
        }
    }

    /// Waits for what it does next. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<ProgramEvent, ExecError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<ProgramEvent, ExecError>> {
        let next = self.poll_before_deadline(context);
        if next.is_ready() {
            self.waits_since = None;
            self.has_printed = true;
            return next;
        }
        let now = Instant::now();
        let since = *self.waits_since.get_or_insert(now);
        while self.deadline_timer.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            let (deadline, late) = self.deadline(since);
            if deadline <= now {
                return Poll::Ready(Err(late));
            }
            // Whose turn it is may change unseen, and with it the deadline.
            let Deadlines { first_output, idle } = self.deadlines;
            let look_at = deadline.min(now + first_output.min(idle));
            self.deadline_timer.as_mut().reset(look_at);
        }
        Poll::Pending
    }

    fn deadline(&self, waits_since: Instant) -> (Instant, ExecError) {
        let Deadlines { first_output, idle } = self.deadlines;
        let moved = self.stdin_copy.last();
        if self.has_printed {
            // Before that nobody asked for output, so its silence says nothing.
            (moved.max(waits_since) + idle, ExecError::IdleTimeout(idle))
        } else if self.stdin_copy.waits_for_client() {
            (moved + idle, ExecError::UploadTimeout(idle))
        } else {
            (
                moved + first_output,
                ExecError::FirstOutputTimeout(first_output),
            )
        }
    }

    fn poll_before_deadline(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<ProgramEvent, ExecError>> {
        if let State::Printing | State::Closed = self.state
            && let Poll::Ready(ended) = self.execution.poll_exited(context)
        {
            let left = rustix::io::ioctl_fionread(&self.output);
            let left = left.map_err(|error| ExecError::Output(error.into()))?;
            self.state = State::Ended(ended, left);
        }
        if let State::Ended(..) | State::Reported = self.state {
            return Poll::Ready(self.take_rest());
        }
        if let State::Printing = self.state
            && let Poll::Ready(read) = self.poll_output(context)
        {
            match read.map_err(ExecError::Output)? {
                0 => self.state = State::Closed,
                _ => return Poll::Ready(Ok(ProgramEvent::Printed(self.buffer.split().freeze()))),
            }
        }
        let error = ready!(self.stdin_copy.poll_failed(context));
        Poll::Ready(Err(ExecError::Upload(error)))
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() < MIN_CAPACITY {
            self.buffer.reserve(CHUNK);
        }
        pin!(self.output.read_buf(&mut self.buffer)).poll(context)
    }

    /// A left-over that still writes, or reads what is not its own, changes nothing of the bound.
    fn take_rest(&mut self) -> Result<ProgramEvent, ExecError> {
        if let State::Ended(_, left) = &mut self.state
            && *left > 0
        {
            let most = usize::try_from(*left).unwrap_or(CHUNK).min(CHUNK);
            self.buffer.resize(most, 0);
            // Not through the runtime, which may not have been told yet that there is something.
            match rustix::io::read(&self.output, &mut self.buffer[..]) {
                Ok(count @ 1..) => {
                    *left -= count as u64;
                    self.buffer.truncate(count);
                    return Ok(ProgramEvent::Printed(self.buffer.split().freeze()));
                }
                Ok(0) | Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(ExecError::Output(error.into())),
            }
        }
        match std::mem::replace(&mut self.state, State::Reported) {
            State::Ended(Ok(exit), _) => Ok(ProgramEvent::Ended(exit)),
            State::Ended(Err(error), _) => Err(ExecError::Init(error)),
            _ => Err(ExecError::Init(InitClientError::Closed)),
        }
    }
}

/// The program's output as a body. Dropped before its end, it kills the program.
pub(super) struct Output {
    first: Option<Bytes>,
    running: Option<RunningProgram>,
    /// Reported after one turn, in which hyper flushes what came before the break: an answer of which
    /// nothing arrives looks like a request that was never begun.
    broken: Option<ExecError>,
}

impl Output {
    pub(super) fn new(running: RunningProgram, first: Bytes) -> Self {
        Self {
            first: Some(first),
            running: Some(running),
            broken: None,
        }
    }
}

impl http_body::Body for Output {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let Some(broken) = this.broken.take() {
            return Poll::Ready(Some(Err(BodyError::Source(Box::new(broken)))));
        }
        let Some(running) = &mut this.running else {
            return Poll::Ready(None);
        };
        let broken = match ready!(running.poll_next(context)) {
            Ok(ProgramEvent::Printed(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            // Too late for the status; the code is a trailer, and a signal breaks the answer off.
            Ok(ProgramEvent::Ended(Exit::Code(code))) => {
                this.running = None;
                let trailers = HeaderMap::from_iter([(EXIT_CODE, HeaderValue::from(code))]);
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            Ok(ProgramEvent::Ended(killed @ Exit::Signal(_))) => ExecError::Killed(killed),
            Err(broken) => broken,
        };
        this.running = None;
        this.broken = Some(broken);
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
