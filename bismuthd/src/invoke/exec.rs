//! Exec mode: one process per request.
//!
//! ```text
//!  body ──► stdin ─┐                      ┌─ first bytes ─► 200, then the rest as it comes
//!                  ├─► program ─► stdout ─┼─ none, code 0 ─► 200, empty
//!  log ◄── stderr ─┘                      ├─ none, another code or a signal ─► 502
//!                                         └─ none in time ─► killed, 504
//! ```
//!
//! The exit code travels in the trailer `X-Bismuth-Exit-Code`, since after the first byte it is
//! too late for the status. A program that is killed by a signal after its first byte breaks the
//! answer off, so that nobody takes a part for the whole. A client that goes away kills the
//! program: dropping the answer's body drops the [`Execution`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bismuth_http::{Body, BodyError, Problem};
use bismuth_init::{ExecRequest, Exit, FailureKind};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt as _;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio::net::unix::pipe;
use tracing::debug;
use zeroize::Zeroizing;

use super::agent::{AgentError, Execution};
use super::cgi;
use super::problems::{problem, unless_it_ended};
use crate::node::slot::{ExecTarget, Slot};
use crate::services::SecretsError;

/// Read from a program at once: the kernel's pipe buffer.
const CHUNK: usize = 64 * 1024;

/// The exit code, as a trailer.
const EXIT_CODE: HeaderName = HeaderName::from_static("x-bismuth-exit-code");

/// Why an answer broke off.
#[derive(Debug, Error)]
enum Broken {
    #[error("read the program's output")]
    Output(#[source] io::Error),
    #[error("the program printed nothing for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("the program ended with {0}")]
    Killed(Exit),
    #[error("learn how the program ended")]
    Agent(#[source] AgentError),
}

/// Runs the program for this request, in this start of the container.
pub async fn run(
    slot: &Slot,
    incarnation: u64,
    target: &ExecTarget,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let timeout = Duration::from_millis(slot.definition.timeout_ms);
    let idle = Duration::from_millis(slot.definition.idle_timeout_ms);
    let (head, body) = request.into_parts();
    let secrets = target.secrets.get().await.map_err(|e| no_secrets(&e))?;
    let words = words(target, secrets, &head)?;
    let streams = Streams::open(body.is_end_stream()).map_err(|e| no_streams(&e))?;
    let stderr = match target.stderr.open() {
        Ok(stderr) => stderr,
        Err(gone) => return Err(unless_it_ended(slot, incarnation, no_streams(&gone)).await),
    };
    let fds = [
        streams.stdin.as_fd(),
        streams.stdout.as_fd(),
        stderr.as_fd(),
    ];
    let execution = Execution::spawn(&target.socket, &words, fds).await;
    let execution = match execution {
        Ok(execution) => execution,
        Err(error) if error.is_broken() => {
            return Err(unless_it_ended(slot, incarnation, spawn_failed(&error)).await);
        }
        Err(error) => return Err(spawn_failed(&error)),
    };
    drop(stderr);
    let (feed, output) = streams.into_ours();
    if let Some(feed) = feed {
        tokio::task::spawn_local(feed_body(body, feed, idle));
    }
    let mut running = Running {
        execution,
        output,
        idle,
    };
    match tokio::time::timeout(timeout, running.begin()).await {
        Ok(Ok(beginning)) => answer(running, beginning),
        Ok(Err(broken)) => {
            let detail = bismuth_daemon::exit::chain(&broken);
            let broken = problem(StatusCode::BAD_GATEWAY, "program_unreachable", detail);
            Err(unless_it_ended(slot, incarnation, broken).await)
        }
        Err(_elapsed) => Err(problem(
            StatusCode::GATEWAY_TIMEOUT,
            "function_timeout",
            format!(
                "the program printed nothing within {} ms and was killed",
                timeout.as_millis()
            ),
        )),
    }
}

fn words(
    target: &ExecTarget,
    secrets: &[Zeroizing<Vec<u8>>],
    head: &http::request::Parts,
) -> Result<ExecRequest, Problem> {
    let id = head
        .headers
        .get(bismuth_http::trace::REQUEST_ID)
        .map_or(&b""[..], HeaderValue::as_bytes);
    let program = &target.program;
    let own = program.env.iter().map(|v| v.clone().into_bytes());
    let own = own.chain(secrets.iter().map(|line| line.to_vec()));
    let env = own.chain(cgi::variables(head, head.uri.path(), id));
    let argv = program.argv.iter().map(String::as_str);
    let mut request =
        ExecRequest::new(argv, env, program.cwd.as_str(), target.user).map_err(|e| {
            problem(
                StatusCode::BAD_REQUEST,
                "request_not_executable",
                bismuth_daemon::exit::chain(&e),
            )
        })?;
    request.groups.clone_from(&target.groups);
    Ok(request)
}

fn no_secrets(error: &SecretsError) -> Problem {
    let detail = bismuth_daemon::exit::chain(error);
    match error {
        SecretsError::Unavailable { .. } => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "secrets_unavailable",
            detail,
        )
        .retry_after(1),
        _ => problem(StatusCode::BAD_GATEWAY, "secret_unusable", detail),
    }
}

fn no_streams(error: &io::Error) -> Problem {
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "node_exhausted",
        format!("make the program's pipes: {error}"),
    )
    .retry_after(1)
}

fn spawn_failed(error: &AgentError) -> Problem {
    let detail = bismuth_daemon::exit::chain(error);
    match error {
        AgentError::Spawn {
            kind: FailureKind::Exhausted,
            ..
        } => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "container_exhausted",
            detail,
        )
        .retry_after(1),
        AgentError::Spawn {
            kind: FailureKind::ArgumentsTooLong,
            ..
        } => problem(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "request_not_executable",
            detail,
        ),
        AgentError::Spawn { .. } => {
            problem(StatusCode::BAD_GATEWAY, "program_not_runnable", detail)
        }
        AgentError::Silent => {
            problem(StatusCode::GATEWAY_TIMEOUT, "program_not_started", detail).retryable()
        }
        _ => problem(StatusCode::BAD_GATEWAY, "program_not_started", detail).retryable(),
    }
}

/// Both ends of a program's standard streams. The two ends of a pipe are two open file
/// descriptions, so the program's flags are not ours.
struct Streams {
    stdin: OwnedFd,
    stdout: OwnedFd,
    feed: Option<pipe::Sender>,
    output: pipe::Receiver,
}

impl Streams {
    /// Pipes; a request without a body reads from `/dev/null`.
    fn open(no_body: bool) -> io::Result<Self> {
        let (ours, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let output = pipe::Receiver::from_owned_fd(ours)?;
        if no_body {
            let stdin =
                rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            return Ok(Self {
                stdin,
                stdout,
                feed: None,
                output,
            });
        }
        let (stdin, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let feed = Some(pipe::Sender::from_owned_fd(ours)?);
        Ok(Self {
            stdin,
            stdout,
            feed,
            output,
        })
    }

    /// Closes the program's ends here, so that their end is seen when the program closes them.
    fn into_ours(self) -> (Option<pipe::Sender>, pipe::Receiver) {
        (self.feed, self.output)
    }
}

/// Copies the request's body to the program. A program that does not read it all is no error.
async fn feed_body(mut body: Body, mut feed: pipe::Sender, idle: Duration) {
    loop {
        let frame = match tokio::time::timeout(idle, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return,
            Ok(Some(Err(error))) => {
                debug!(
                    error = bismuth_daemon::exit::chain(&error),
                    "a request's body broke off"
                );
                return;
            }
            Err(_elapsed) => {
                debug!("a request's body was silent for too long");
                return;
            }
        };
        // Trailers have no place on a standard input.
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if feed.write_all(&data).await.is_err() {
            return;
        }
    }
}

/// A program whose output is being read.
struct Running {
    execution: Execution,
    output: pipe::Receiver,
    idle: Duration,
}

enum Beginning {
    /// It printed this first.
    Output(Bytes),
    /// It ended without printing.
    Ended(Exit),
}

impl Running {
    async fn begin(&mut self) -> Result<Beginning, Broken> {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        let read = tokio::io::AsyncReadExt::read_buf(&mut self.output, &mut buffer).await;
        if read.map_err(Broken::Output)? > 0 {
            return Ok(Beginning::Output(buffer.freeze()));
        }
        self.execution
            .exited()
            .await
            .map(Beginning::Ended)
            .map_err(Broken::Agent)
    }
}

fn answer(running: Running, beginning: Beginning) -> Result<Response<Body>, Problem> {
    let mut response = match beginning {
        Beginning::Ended(exit) if exit.is_success() => Response::new(Body::empty()),
        Beginning::Ended(exit) => {
            let detail = format!(
                "the program ended with {exit} and printed nothing; its standard error is in the function's log"
            );
            return Err(problem(StatusCode::BAD_GATEWAY, "program_failed", detail));
        }
        Beginning::Output(first) => {
            let mut response = Response::new(Body::wrap(Output::new(running, first)));
            response.headers_mut().insert(
                header::TRAILER,
                HeaderValue::from_static("x-bismuth-exit-code"),
            );
            response
        }
    };
    // What a program prints is bytes; a definition of its type is the function's own affair.
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    Ok(response)
}

/// The program's output as a body. Dropped before its end, it kills the program.
struct Output {
    first: Option<Bytes>,
    running: Running,
    silence: Pin<Box<tokio::time::Sleep>>,
    buffer: BytesMut,
    state: OutputState,
}

enum OutputState {
    Printing,
    Ending,
    Done,
}

impl Output {
    fn new(running: Running, first: Bytes) -> Self {
        let silence = Box::pin(tokio::time::sleep(running.idle));
        Self {
            first: Some(first),
            running,
            silence,
            buffer: BytesMut::new(),
            state: OutputState::Printing,
        }
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        self.buffer.resize(CHUNK, 0);
        let mut read = ReadBuf::new(&mut self.buffer);
        match Pin::new(&mut self.running.output).poll_read(context, &mut read) {
            Poll::Ready(Ok(())) => {
                let count = read.filled().len();
                self.buffer.truncate(count);
                self.silence
                    .as_mut()
                    .reset(tokio::time::Instant::now() + self.running.idle);
                Poll::Ready((count > 0).then(|| Ok(self.buffer.split().freeze())))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(Broken::Output(error)))),
            Poll::Pending => {
                self.buffer.clear();
                ready!(self.silence.as_mut().poll(context));
                Poll::Ready(Some(Err(Broken::Silent(self.running.idle))))
            }
        }
    }

    /// After the output's end: how the program ended, as a trailer or an error.
    fn poll_exit(&mut self, context: &mut Context<'_>) -> Poll<Result<HeaderMap, Broken>> {
        match self.running.execution.poll_exited(context) {
            Poll::Ready(Ok(Exit::Code(code))) => Poll::Ready(Ok(HeaderMap::from_iter([(
                EXIT_CODE,
                HeaderValue::from(code),
            )]))),
            Poll::Ready(Ok(killed @ Exit::Signal(_))) => Poll::Ready(Err(Broken::Killed(killed))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(Broken::Agent(error))),
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(context));
                Poll::Ready(Err(Broken::Silent(self.running.idle)))
            }
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
        let broken = |error: Broken| Some(Err(BodyError::Source(Box::new(error))));
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if let OutputState::Printing = this.state {
            match ready!(this.poll_output(context)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Some(Err(error)) => {
                    this.state = OutputState::Done;
                    return Poll::Ready(broken(error));
                }
                None => this.state = OutputState::Ending,
            }
        }
        if let OutputState::Ending = this.state {
            let ended = ready!(this.poll_exit(context));
            this.state = OutputState::Done;
            return Poll::Ready(match ended {
                Ok(trailers) => Some(Ok(Frame::trailers(trailers))),
                Err(error) => broken(error),
            });
        }
        Poll::Ready(None)
    }
}
