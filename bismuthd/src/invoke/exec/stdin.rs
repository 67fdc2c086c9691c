//! Copies the body of a request to the standard input of its program.
//!
//! ```text
//!  body ─► pipe ─► stdin
//!   ├─ its end ─────────────────► stdin is closed: the program reads the end
//!   ├─ the program closed stdin ► nothing more is sent, which is no failure
//!   ├─ it breaks ── reported ─┐
//!   └─ StdinCopy is dropped ──┴─► stdin stays open until nobody can read from it
//! ```
//!
//! A program takes the end of its input for the end of the request. So the pipe is closed early
//! only when the program is dead: it must not take half an upload for a whole one in the moment
//! between the order to kill it and its death.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bismuth_http::{Body, BodyError};
use bytes::Buf as _;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

/// How long after the order to kill it a program's input is kept open. bismuth-init does it in a
/// fraction of a millisecond; a container that has no processor time takes longer.
const DEATH_BOUND: Duration = Duration::from_secs(30);

/// A body that is being sent, or none. Drop it after the execution.
#[derive(Debug)]
pub(super) struct StdinCopy {
    progress: Rc<Progress>,
    failure: Option<oneshot::Receiver<BodyError>>,
    /// Dropped with this: the program is not wanted any more.
    _wanted: oneshot::Sender<Infallible>,
}

/// What the body is doing, for whoever waits for the program.
#[derive(Debug)]
struct Progress {
    last: Cell<Instant>,
    waits_for_client: Cell<bool>,
}

impl Progress {
    fn note(&self) {
        self.last.set(Instant::now());
        self.waits_for_client.set(false);
    }
}

impl StdinCopy {
    /// Begins to copy `body` to the program; without a pipe there is none.
    pub(super) fn start(body: Body, stdin: Option<pipe::Sender>) -> Self {
        let progress = Rc::new(Progress {
            last: Cell::new(Instant::now()),
            waits_for_client: Cell::new(false),
        });
        let (wanted, unwanted) = oneshot::channel();
        let failure = stdin.map(|stdin| {
            let (failed, failure) = oneshot::channel();
            let progress = Rc::clone(&progress);
            tokio::task::spawn_local(copy_until_unwanted(body, stdin, progress, failed, unwanted));
            failure
        });
        Self {
            progress,
            failure,
            _wanted: wanted,
        }
    }

    /// When something last went on, or this began.
    pub(super) fn last(&self) -> Instant {
        self.progress.last.get()
    }

    /// Whether it is the client for whom everybody waits.
    pub(super) fn waits_for_client(&self) -> bool {
        self.progress.waits_for_client.get()
    }

    /// Ready if the body breaks off, once. A program that is killed then has not seen its end.
    pub(super) fn poll_failed(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        let Some(failure) = &mut self.failure else {
            return Poll::Pending;
        };
        let ended = std::task::ready!(std::pin::Pin::new(failure).poll(context));
        self.failure = None;
        match ended {
            Ok(error) => Poll::Ready(error),
            // It came to its end.
            Err(_closed) => Poll::Pending,
        }
    }
}

async fn copy_until_unwanted(
    body: Body,
    mut stdin: pipe::Sender,
    progress: Rc<Progress>,
    failed: oneshot::Sender<BodyError>,
    mut unwanted: oneshot::Receiver<Infallible>,
) {
    let copied = tokio::select! {
        copied = copy(body, &mut stdin, &progress) => Some(copied),
        _ = &mut unwanted => None,
    };
    match copied {
        Some(Ok(())) => return,
        Some(Err(error)) => {
            debug!(
                error = bismuth_base::chain(&error),
                "a request's body broke off"
            );
            let _nobody_asks = failed.send(error);
            let _dropped = unwanted.await;
        }
        None => {}
    }
    // An error of the writing end is that there is no reader any more, pipe(7).
    let death = stdin.ready(Interest::ERROR);
    if tokio::time::timeout(DEATH_BOUND, death).await.is_err() {
        debug!("something still reads the input of a program that was killed");
    }
}

/// Until the body's end, or until the program does not read it any more.
async fn copy(
    mut body: Body,
    stdin: &mut pipe::Sender,
    progress: &Progress,
) -> Result<(), BodyError> {
    loop {
        progress.waits_for_client.set(true);
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            _unread = stdin.ready(Interest::ERROR) => None,
        };
        progress.note();
        let Some(frame) = frame else {
            return Ok(());
        };
        // Trailers have no place on a standard input.
        let Ok(mut data) = frame?.into_data() else {
            continue;
        };
        while data.has_remaining() {
            match stdin.write(&data).await {
                Ok(count) => data.advance(count),
                Err(_unread) => return Ok(()),
            }
            progress.note();
        }
    }
}
