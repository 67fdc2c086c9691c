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
//! answer off, so that nobody takes a part for the whole. A client that goes away, or whose body
//! breaks off, kills the program: dropping the answer's body drops the [`Execution`].
//!
//! - `stdin`: copies the body to the program.
//! - `running`: the output as the answer's body, and all that may end it.

mod running;
mod stdin;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bismuth_http::{Body, Problem};
use bismuth_init::{ExecRequest, FailureKind};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::Body as _;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

use self::running::{Deadlines, ExecError, Output, ProgramEvent, RunningProgram};
use self::stdin::StdinCopy;
use super::cgi;
use super::init_client::{Execution, InitClientError};
use super::problems::{body_broken, body_timeout, problem, unavailable, unless_it_ended};
use crate::node::slot::{ExecTarget, Slot};
use crate::svcprovider::SecretsError;

/// Runs the program for this request, in this start of the container.
pub async fn run(
    slot: &Slot,
    start_id: u64,
    target: &ExecTarget,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let deadlines = Deadlines {
        first_output: Duration::from_millis(slot.definition.timeout_ms),
        idle: Duration::from_millis(slot.definition.idle_timeout_ms),
    };
    let (head, body) = request.into_parts();
    let secrets = match &target.secrets {
        None => &[],
        Some(secrets) => secrets.get().await.map_err(|e| no_secrets(&e))?,
    };
    let exec_request = exec_request(target, secrets, &head)?;
    let streams = Streams::open(body.is_end_stream()).map_err(|e| no_streams(&e))?;
    let stderr = match target.stderr.open() {
        Ok(stderr) => stderr,
        Err(gone) => return Err(unless_it_ended(slot, start_id, no_streams(&gone)).await),
    };
    let fds = [
        streams.stdin.as_fd(),
        streams.stdout.as_fd(),
        stderr.as_fd(),
    ];
    let execution = Execution::spawn(&target.socket, &exec_request, fds).await;
    let execution = match execution {
        Ok(execution) => execution,
        Err(error) if error.is_broken() => {
            return Err(unless_it_ended(slot, start_id, spawn_failed(&error)).await);
        }
        Err(error) => return Err(spawn_failed(&error)),
    };
    drop(stderr);
    let (stdin, output) = streams.into_ours();
    let stdin_copy = StdinCopy::start(body, stdin);
    let mut running = RunningProgram::new(execution, output, stdin_copy, deadlines);
    match running.next().await {
        Ok(next) => answer(running, next),
        Err(broken) => {
            // Killed before anything is said about it.
            drop(running);
            Err(explain(slot, start_id, &broken).await)
        }
    }
}

async fn explain(slot: &Slot, start_id: u64, broken: &ExecError) -> Problem {
    let detail = bismuth_base::chain(broken);
    match broken {
        ExecError::FirstOutputTimeout(_) => {
            problem(StatusCode::GATEWAY_TIMEOUT, "function_timeout", detail)
        }
        ExecError::Upload(_) => body_broken(detail),
        ExecError::UploadTimeout(_) => body_timeout(detail),
        _ => {
            let broken = problem(StatusCode::BAD_GATEWAY, "program_unreachable", detail);
            unless_it_ended(slot, start_id, broken).await
        }
    }
}

fn exec_request(
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
    let request = ExecRequest::new(argv, env, program.cwd.as_str(), target.user);
    let mut request = request.map_err(|error| {
        let detail = bismuth_base::chain(&error);
        problem(StatusCode::BAD_REQUEST, "request_not_executable", detail)
    })?;
    request.groups.clone_from(&target.groups);
    Ok(request)
}

fn no_secrets(error: &SecretsError) -> Problem {
    let detail = bismuth_base::chain(error);
    match error {
        SecretsError::Unavailable { .. } => unavailable("secrets_unavailable", detail),
        _ => problem(StatusCode::BAD_GATEWAY, "secret_unusable", detail),
    }
}

fn no_streams(error: &io::Error) -> Problem {
    unavailable(
        "node_exhausted",
        format!("make the program's pipes: {error}"),
    )
}

fn spawn_failed(error: &InitClientError) -> Problem {
    let detail = bismuth_base::chain(error);
    match error {
        InitClientError::Spawn { kind, .. } => match kind {
            FailureKind::Exhausted => unavailable("container_exhausted", detail),
            FailureKind::ArgumentsTooLong => {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                problem(status, "request_not_executable", detail)
            }
            _ => problem(StatusCode::BAD_GATEWAY, "program_not_runnable", detail),
        },
        InitClientError::Timeout => {
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
    input: Option<pipe::Sender>,
    output: pipe::Receiver,
}

impl Streams {
    /// Pipes; a request without a body reads from `/dev/null`.
    fn open(no_body: bool) -> io::Result<Self> {
        let (ours, stdout) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let output = pipe::Receiver::from_owned_fd(ours)?;
        let (stdin, input) = if no_body {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            (rustix::fs::open("/dev/null", flags, Mode::empty())?, None)
        } else {
            let (stdin, ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            (stdin, Some(pipe::Sender::from_owned_fd(ours)?))
        };
        Ok(Self {
            stdin,
            stdout,
            input,
            output,
        })
    }

    /// Closes the program's ends here, so that their end is seen when the program closes them.
    fn into_ours(self) -> (Option<pipe::Sender>, pipe::Receiver) {
        (self.input, self.output)
    }
}

fn answer(running: RunningProgram, beginning: ProgramEvent) -> Result<Response<Body>, Problem> {
    let mut response = match beginning {
        ProgramEvent::Ended(exit) if exit.is_success() => Response::new(Body::empty()),
        ProgramEvent::Ended(exit) => {
            let detail = format!(
                "the program ended with {exit} and printed nothing; its standard error is in the function's log"
            );
            return Err(problem(StatusCode::BAD_GATEWAY, "program_failed", detail));
        }
        ProgramEvent::Printed(first) => {
            let mut response = Response::new(Body::wrap(Output::new(running, first)));
            let trailer = HeaderValue::from_static("x-bismuth-exit-code");
            response.headers_mut().insert(header::TRAILER, trailer);
            response
        }
    };
    // What a program prints is bytes; a definition of its type is the function's own affair.
    let octets = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, octets);
    Ok(response)
}
