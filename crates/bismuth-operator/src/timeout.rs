//! Idle timeouts of a call.
//!
//! ```text
//!   connect ─► body goes out ─► head of the answer ─► its body comes
//!               │                                      └ each frame begins the wait anew
//!               ├ each byte that is taken begins the wait anew
//!               └ its source is slow: a pipe may be, and that is not svcprovider's silence
//! ```

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use crate::error::CallError;

/// An engine that is away is told within a second, and a silent upload after 30 s. The longest that an svcprovider that works is silent
/// is when it forces the last of a large blob onto a slow disk.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A purge and a rewrap answer when all is done: some milliseconds for each blob and group. Either goes on from where it was when it is
/// asked for again.
pub(crate) const LONG_RUNNING_TIMEOUT: Duration = Duration::from_secs(600);

/// When something last went on in an exchange. Clones are the same exchange.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    last: Instant,
    /// It is the source of the body that is waited for.
    source_is_slow: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            last: Instant::now(),
            source_is_slow: false,
        })))
    }

    /// Bytes were taken.
    pub(crate) fn moved(&self) {
        self.lock().last = Instant::now();
    }

    fn source(&self, is_slow: bool) {
        *self.lock() = State {
            last: Instant::now(),
            source_is_slow: is_slow,
        };
    }

    /// Ends when svcprovider has let nothing go on for `bound`.
    pub(crate) async fn stalled(&self, bound: Duration) {
        loop {
            let now = Instant::now();
            let due = {
                let state = self.lock();
                let last = if state.source_is_slow {
                    now
                } else {
                    state.last
                };
                last + bound
            };
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body that goes out, and tells when it is its source that is slow.
pub(crate) struct TrackedBody<B> {
    body: Pin<Box<B>>,
    progress: Progress,
}

impl<B> TrackedBody<B> {
    pub(crate) fn new(body: B, progress: Progress) -> Self {
        Self {
            body: Box::pin(body),
            progress,
        }
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = self.body.as_mut().poll_frame(cx);
        self.progress.source(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Nobody asks the source for more.
impl<B> Drop for TrackedBody<B> {
    fn drop(&mut self) {
        self.progress.source(false);
    }
}

/// The body of an answer. It fails when nothing of it comes for too long while somebody waits for it.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    address: String,
    bound: Duration,
    /// While it is waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    pub(crate) fn new(body: Incoming, address: String, bound: Duration) -> Self {
        Self {
            body,
            address,
            bound,
            timer: None,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.timer = None;
            let failed = |source| CallError::Exchange {
                address: self.address.clone(),
                source,
            };
            return Poll::Ready(frame.map(|frame| frame.map_err(failed)));
        }
        let bound = self.bound;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(bound)));
        ready!(timer.as_mut().poll(cx));
        let address = self.address.clone();
        Poll::Ready(Some(Err(CallError::Stalled { address, bound })))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
