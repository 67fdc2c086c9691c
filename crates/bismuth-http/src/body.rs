//! The one body type of the data path.
//!
//! A body is an enum, so that nothing is boxed per request or per frame. Beside its bytes it may carry an
//! [`OnEnd`] guard, which learns exactly once how the body ended: completely, broken, or abandoned
//! because the other side left.

use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::expect::Gate;
use crate::forward::{Progress, UpstreamBody};
use crate::replay::ReplayBody;
use crate::server::InFlight;

/// Why a body did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection it came over broke, or its framing was invalid.
    #[error("read a body from its connection")]
    Read(#[source] hyper::Error),
    /// Nothing moved for the stream's idle timeout.
    #[error("a body was silent for {} ms", .after.as_millis())]
    Silent {
        /// The timeout that passed.
        after: Duration,
    },
    /// A newer reader of the same replayed body took over.
    #[error("this copy of a body was replaced by a newer attempt")]
    Superseded,
    /// A source that is not a connection failed, such as a program's output.
    #[error("produce a body")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// How a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte was handed over.
    Complete,
    /// It broke on our side of it: the upstream failed or was silent too long.
    Broken,
    /// Whoever read it went away first.
    Abandoned,
}

/// What an [`OnEnd`] learns.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Payload bytes handed over.
    pub bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Told once when a body (or the tunnel that took its place) has ended.
pub trait OnEnd {
    /// The body ended.
    fn on_end(&mut self, end: End);
}

/// A request's or response's body.
#[derive(Default)]
pub struct Body {
    kind: Kind,
    end: Option<Box<EndGuard>>,
    /// Held for its drop.
    in_flight: Option<InFlight>,
    progress: Option<Rc<Progress>>,
    gate: Option<Arc<Gate>>,
}

#[derive(Default)]
pub(crate) enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Replay(ReplayBody),
    Upstream(UpstreamBody),
    Dynamic(Pin<Box<dyn HttpBody<Data = Bytes, Error = BodyError>>>),
}

struct EndGuard {
    told: Option<Box<dyn OnEnd>>,
    bytes: u64,
}

impl EndGuard {
    fn tell(&mut self, outcome: Outcome) {
        if let Some(mut told) = self.told.take() {
            let bytes = self.bytes;
            told.on_end(End { bytes, outcome });
        }
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.tell(Outcome::Abandoned);
    }
}

impl Body {
    /// No bytes.
    pub fn empty() -> Self {
        Body::default()
    }

    /// These bytes.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        Kind::Full(bytes.into()).into()
    }

    /// Any other source, boxed: for what is not the hot path (a program's output, a file).
    pub fn wrap(body: impl HttpBody<Data = Bytes, Error = BodyError> + 'static) -> Self {
        Kind::Dynamic(Box::pin(body)).into()
    }

    /// Tells `on_end` once when this body has ended.
    pub fn with_end(mut self, on_end: Box<dyn OnEnd>) -> Self {
        self.end = Some(Box::new(EndGuard {
            told: Some(on_end),
            bytes: 0,
        }));
        if self.is_end_stream() {
            self.ended(Outcome::Complete);
        }
        self
    }

    /// Keeps the connection's count of answers until this body is gone.
    pub(crate) fn with_in_flight(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }

    /// Reports every frame to `progress`.
    pub(crate) fn with_progress(mut self, progress: Rc<Progress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Gives nothing before `gate` opens.
    pub(crate) fn with_gate(mut self, gate: Arc<Gate>) -> Self {
        self.gate = Some(gate);
        self
    }

    /// Whether the body came without bytes, so that it can be sent again freely.
    pub fn is_trivially_replayable(&self) -> bool {
        matches!(self.kind, Kind::Empty | Kind::Full(_))
    }

    pub(crate) fn into_kind(mut self) -> Kind {
        std::mem::take(&mut self.kind)
    }

    fn count(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, BodyError>>>) {
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(end) = &mut self.end {
                    end.bytes += bytes;
                }
                if self.kind.is_end_stream() {
                    self.ended(Outcome::Complete);
                }
            }
            Poll::Ready(None) => self.ended(Outcome::Complete),
            Poll::Ready(Some(Err(_))) => self.ended(Outcome::Broken),
            Poll::Pending => {}
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        if let Some(end) = &mut self.end {
            end.tell(outcome);
        }
    }
}

impl From<Kind> for Body {
    fn from(kind: Kind) -> Self {
        Body {
            kind,
            ..Body::default()
        }
    }
}

impl From<Incoming> for Body {
    /// A body as it arrives; one that is known to be empty becomes [`Body::empty`].
    fn from(incoming: Incoming) -> Self {
        match incoming.is_end_stream() {
            true => Body::empty(),
            false => Kind::Incoming(incoming).into(),
        }
    }
}

impl Kind {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(_) => match std::mem::take(self) {
                Kind::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Read),
            Kind::Replay(body) => body.poll_frame(cx),
            Kind::Upstream(body) => body.poll_frame(cx),
            Kind::Dynamic(body) => body.as_mut().poll_frame(cx),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(gate) = &self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        let polled = self.kind.poll_frame(cx);
        if let Some(progress) = &self.progress {
            progress.note(&polled);
        }
        if self.end.is_some() {
            self.count(&polled);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.kind.size_hint()
    }
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Replay(body) => body.is_end_stream(),
            Kind::Upstream(body) => body.is_end_stream(),
            Kind::Dynamic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Replay(body) => body.size_hint(),
            Kind::Upstream(body) => body.size_hint(),
            Kind::Dynamic(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            Kind::Incoming(_) => "incoming",
            Kind::Replay(_) => "replay",
            Kind::Upstream(_) => "upstream",
            Kind::Dynamic(_) => "dynamic",
        };
        write!(f, "Body({kind})")
    }
}

/// A guard may be a closure.
impl<F: FnMut(End)> OnEnd for F {
    fn on_end(&mut self, end: End) {
        self(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::cell::Cell;

    type Seen = Rc<Cell<Option<(u64, Outcome)>>>;

    fn recorder() -> (Seen, Box<dyn OnEnd>) {
        let seen = Seen::default();
        let told = seen.clone();
        (
            seen,
            Box::new(move |end: End| told.set(Some((end.bytes, end.outcome)))),
        )
    }

    #[tokio::test]
    async fn the_guard_learns_of_a_complete_body() {
        let (seen, guard) = recorder();
        let body = Body::full("hello").with_end(guard);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        assert_eq!(seen.get(), Some((5, Outcome::Complete)));
    }

    #[test]
    fn the_guard_learns_of_an_empty_body_at_once_and_of_a_dropped_one() {
        let (seen, guard) = recorder();
        let _body = Body::empty().with_end(guard);
        assert_eq!(seen.get(), Some((0, Outcome::Complete)));
        let (seen, guard) = recorder();
        drop(Body::full("x").with_end(guard));
        assert_eq!(seen.get(), Some((0, Outcome::Abandoned)));
    }
}
