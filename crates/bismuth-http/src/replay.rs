//! A request body that can be sent again, as long as it was small so far.
//!
//! ```text
//! client ─► Replay { kept: up to 64 KiB } ─► body() for try 1 ─► body() for try 2 ...
//! ```
//!
//! Each try reads from the start: first what was kept, then the client. Once more than the limit has passed
//! through, nothing is kept and the body cannot begin again.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::body::{Body, BodyError, Kind};

/// What a request may keep of its body: one pipe buffer, more than most JSON requests.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// A body that several tries share, one after the other.
#[derive(Debug)]
pub struct Replay {
    source: Source,
}

#[derive(Debug)]
enum Source {
    Empty,
    Full(Bytes),
    Shared(Rc<RefCell<Shared>>),
}

#[derive(Debug)]
struct Shared {
    source: Body,
    kept: Vec<Kept>,
    kept_bytes: usize,
    limit: usize,
    /// More than `limit` has passed: the beginning is gone.
    overflowed: bool,
    /// The source gave an error or, complete, its end.
    over: bool,
    failed: bool,
    hint: SizeHint,
    /// Which reader may poll; older ones are superseded.
    reader: u64,
}

#[derive(Debug, Clone)]
enum Kept {
    Data(Bytes),
    Trailers(http::HeaderMap),
}

impl Replay {
    /// Wraps a body of which up to `limit` bytes are kept.
    pub fn new(body: Body, limit: usize) -> Self {
        if body.is_trivially_replayable() {
            let source = match body.into_kind() {
                Kind::Full(bytes) => Source::Full(bytes),
                _ => Source::Empty,
            };
            return Replay { source };
        }
        let hint = body.size_hint();
        let shared = Shared {
            source: body,
            kept: Vec::new(),
            kept_bytes: 0,
            limit,
            overflowed: false,
            over: false,
            failed: false,
            hint,
            reader: 0,
        };
        Replay {
            source: Source::Shared(Rc::new(RefCell::new(shared))),
        }
    }

    /// Whether a new try would see the body from its first byte.
    pub fn can_restart(&self) -> bool {
        match &self.source {
            Source::Empty | Source::Full(_) => true,
            Source::Shared(shared) => {
                let shared = shared.borrow();
                !shared.overflowed && !shared.failed
            }
        }
    }

    /// The body for the next try, or `None` when it cannot begin again. Bodies given before stop working.
    pub fn body(&self) -> Option<Body> {
        if !self.can_restart() {
            return None;
        }
        Some(match &self.source {
            Source::Empty => Body::empty(),
            Source::Full(bytes) => Body::full(bytes.clone()),
            Source::Shared(shared) => {
                let reader = {
                    let mut shared = shared.borrow_mut();
                    shared.reader += 1;
                    shared.reader
                };
                let shared = shared.clone();
                Kind::Replay(ReplayBody {
                    shared,
                    reader,
                    at: 0,
                })
                .into()
            }
        })
    }
}

/// One try's view of a [`Replay`].
pub struct ReplayBody {
    shared: Rc<RefCell<Shared>>,
    reader: u64,
    at: usize,
}

impl ReplayBody {
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        if shared.reader != self.reader {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(kept) = shared.kept.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(kept.frame())));
        }
        if shared.over {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut shared.source).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                shared.keep(frame);
                self.at = shared.kept.len();
                shared.over = shared.source.is_end_stream();
            }
            Poll::Ready(Some(Err(_))) => {
                shared.over = true;
                shared.failed = true;
            }
            Poll::Ready(None) => shared.over = true,
            Poll::Pending => {}
        }
        polled
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        shared.over && self.at >= shared.kept.len()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let shared = self.shared.borrow();
        match self.at {
            0 if !shared.overflowed => shared.hint,
            _ => shared.source.size_hint(),
        }
    }
}

impl Shared {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.overflowed {
            return;
        }
        let kept = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Kept::Data(data.clone()),
            (None, Some(trailers)) => Kept::Trailers(trailers.clone()),
            (None, None) => return,
        };
        if let Kept::Data(data) = &kept {
            self.kept_bytes += data.len();
        }
        if self.kept_bytes > self.limit {
            self.overflowed = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(kept);
        }
    }
}

impl Kept {
    fn frame(&self) -> Frame<Bytes> {
        match self {
            Kept::Data(data) => Frame::data(data.clone()),
            Kept::Trailers(trailers) => Frame::trailers(trailers.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::collections::VecDeque;

    fn chunks(chunks: &[&'static str]) -> Body {
        struct Chunks(VecDeque<&'static str>);
        impl HttpBody for Chunks {
            type Data = Bytes;
            type Error = BodyError;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
                let next = self.0.pop_front();
                Poll::Ready(next.map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))))
            }
        }
        Body::wrap(Chunks(chunks.iter().copied().collect()))
    }

    #[tokio::test]
    async fn a_second_try_reads_from_the_first_byte() {
        let replay = Replay::new(chunks(&["one", "two", "three"]), 64);
        let mut first = replay.body().unwrap();
        let frame = first.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one");
        let second = replay.body().unwrap();
        assert!(matches!(
            first.frame().await,
            Some(Err(BodyError::Superseded))
        ));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "onetwothree");
        let third = replay.body().unwrap();
        assert_eq!(third.collect().await.unwrap().to_bytes(), "onetwothree");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_passes_but_cannot_begin_again() {
        let replay = Replay::new(chunks(&["four", "five!"]), 8);
        let body = replay.body().unwrap();
        assert!(replay.can_restart());
        assert_eq!(body.collect().await.unwrap().to_bytes(), "fourfive!");
        assert!(replay.body().is_none());
    }

    #[test]
    fn an_empty_body_can_always_be_sent_again() {
        let replay = Replay::new(Body::empty(), 0);
        assert!(replay.body().unwrap().is_end_stream());
        assert!(replay.can_restart());
    }
}
