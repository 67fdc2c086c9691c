//! Passes only complete, unambiguous request heads from a client's socket to hyper.
//!
//! ```text
//! socket ─read─► framing.scan ─ good bytes ──────────────────► hyper
//!                   ├─ partial head ─► held back until complete
//!                   └─ refused ─► a stand-in request, and nothing after it
//! ```
//!
//! A refused head is replaced by a stand-in, so that hyper answers pipelined requests before it in order and then asks
//! the service, which knows the last request of this connection to be refused and answers with the
//! [`Refusal`]'s problem. In the usual case, one read holding whole requests, nothing is copied.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::expect::Gate;
use crate::framing::{Framing, HeadLimits, Scan};
use crate::tunnel::Tunnel;

/// What hyper sees in place of a refused head. `close` makes hyper end the connection after the answer.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";

/// Why a head was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Larger than the limit.
    HeadTooLarge,
    /// More fields than the limit.
    TooManyFields,
    /// Not complete in time.
    HeadTimeout,
    /// Not HTTP/1.0 or HTTP/1.1.
    Version,
    /// Not `method target version`.
    RequestLine,
    /// A character in the target that must be percent-encoded there.
    Target,
    /// Not `name: value`.
    Field,
    /// A value continued on the next line (obs-fold).
    FoldedField,
    /// Whitespace between a name and its colon.
    SpaceBeforeColon,
    /// LF without CR before it.
    BareLineFeed,
    /// CR without LF after it.
    BareCarriageReturn,
    /// `Content-Length` that is repeated or no plain number.
    ContentLength,
    /// `Transfer-Encoding` other than one `chunked`, or in HTTP/1.0.
    TransferEncoding,
    /// Both of them.
    LengthAndEncoding,
}

impl Refusal {
    /// Status, code and sentence for the problem that answers it.
    pub fn describe(self) -> (StatusCode, &'static str, &'static str) {
        let bad = StatusCode::BAD_REQUEST;
        let large = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        match self {
            Refusal::HeadTooLarge => (large, "head_too_large", "the request head is too large"),
            Refusal::TooManyFields => (
                large,
                "too_many_headers",
                "the request has too many header fields",
            ),
            Refusal::HeadTimeout => (
                StatusCode::REQUEST_TIMEOUT,
                "head_timeout",
                "the request head did not arrive in time",
            ),
            Refusal::Version => (
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "http_version",
                "only HTTP/1.0 and HTTP/1.1 are spoken here",
            ),
            Refusal::RequestLine => (bad, "bad_request_line", "the request line is malformed"),
            Refusal::Target => (
                bad,
                "bad_target",
                "the request target has a character that must be percent-encoded, such as # < > `, or one that is not UTF-8",
            ),
            Refusal::Field => (bad, "bad_header", "a header field is malformed"),
            Refusal::FoldedField => (
                bad,
                "folded_header",
                "a header field is folded over several lines",
            ),
            Refusal::SpaceBeforeColon => {
                (bad, "bad_header", "a header name is followed by whitespace")
            }
            Refusal::BareLineFeed => (bad, "bare_lf", "a line of the head ends in LF without CR"),
            Refusal::BareCarriageReturn => (bad, "bare_cr", "the head contains CR without LF"),
            Refusal::ContentLength => (
                bad,
                "bad_content_length",
                "Content-Length is repeated or not a number",
            ),
            Refusal::TransferEncoding => (
                bad,
                "bad_transfer_encoding",
                "Transfer-Encoding must be chunked, once, in HTTP/1.1",
            ),
            Refusal::LengthAndEncoding => (
                bad,
                "ambiguous_length",
                "Content-Length and Transfer-Encoding must not come together",
            ),
        }
    }
}

/// What the guard, the serving loop and the service of one connection know together.
#[derive(Debug)]
pub(crate) struct ConnState {
    pub(crate) peer: SocketAddr,
    /// Complete heads given to hyper, the stand-in included.
    pub(crate) heads: Cell<u64>,
    /// Requests the service was called with.
    pub(crate) started: Cell<u64>,
    /// Answers whose body is gone.
    pub(crate) finished: Cell<u64>,
    /// Whether the body of the last head has begun to arrive.
    pub(crate) body_begun: Cell<bool>,
    /// Set for the last request, if it is refused.
    pub(crate) refused: Cell<Option<Refusal>>,
    /// The client ended its sending side right after its request.
    pub(crate) half_closed: Cell<bool>,
    /// The bytes are no HTTP any more.
    pub(crate) opaque: Cell<bool>,
    /// When the last answer ended, or the connection was accepted.
    pub(crate) idle_since: Cell<Instant>,
    /// When the first byte of a head that is not complete arrived.
    pub(crate) partial_since: Cell<Option<Instant>>,
    /// Since when the client takes no bytes.
    pub(crate) stalled_since: Cell<Option<Instant>>,
    /// A body that waits for its upstream to ask for it.
    pub(crate) gate: RefCell<Option<Arc<Gate>>>,
    /// What to do with the connection once hyper has let go of it.
    pub(crate) tunnel: RefCell<Option<Tunnel>>,
}

impl ConnState {
    pub(crate) fn new(peer: SocketAddr) -> Rc<Self> {
        Rc::new(ConnState {
            peer,
            heads: Cell::new(0),
            started: Cell::new(0),
            finished: Cell::new(0),
            body_begun: Cell::new(false),
            refused: Cell::new(None),
            half_closed: Cell::new(false),
            opaque: Cell::new(false),
            idle_since: Cell::new(Instant::now()),
            partial_since: Cell::new(None),
            stalled_since: Cell::new(None),
            gate: RefCell::new(None),
            tunnel: RefCell::new(None),
        })
    }

    /// Whether a request that hyper has, or will parse next, waits for its answer.
    pub(crate) fn is_busy(&self) -> bool {
        self.heads.get() > self.finished.get()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Guard<T> {
    io: T,
    state: Rc<ConnState>,
    framing: Framing,
    /// Bytes read but not given to hyper; the first `ready` of them may be.
    held: BytesMut,
    ready: usize,
    last_byte: Instant,
    half_close_window: Duration,
    pub(crate) saw_eof: bool,
    /// Framing of a body broke: the next read fails.
    broken: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Guard<T> {
    pub(crate) fn new(
        io: T,
        limits: HeadLimits,
        half_close_window: Duration,
        state: Rc<ConnState>,
    ) -> Self {
        Guard {
            io,
            half_close_window,
            framing: Framing::new(limits),
            held: BytesMut::new(),
            ready: 0,
            last_byte: state.idle_since.get(),
            saw_eof: false,
            broken: false,
            state,
        }
    }

    /// Gives up waiting for the rest of a head.
    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        self.held.clear();
        self.held.extend_from_slice(STAND_IN);
        self.ready = STAND_IN.len();
        self.state.partial_since.set(None);
        self.state.refused.set(Some(refusal));
        self.state.heads.set(self.framing.heads() + 1);
    }

    /// Whether the client may still be sending what nobody will read: closing now would reset the
    /// connection and take the answer with it.
    pub(crate) fn has_unread_input(&self) -> bool {
        let unread = self.state.refused.get().is_some() || !self.framing.is_between_requests();
        unread && !self.saw_eof && !self.broken
    }

    /// Reads into `held` while hyper does not want to read, to learn that the client sends or has left.
    pub(crate) fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; 2048];
        let mut buf = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        if buf.filled().is_empty() {
            self.saw_eof = true;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.last_byte = Instant::now();
        self.held.extend_from_slice(buf.filled());
        self.judge_held();
        Poll::Ready(Ok(()))
    }

    /// Scans what is held; afterwards its first `ready` bytes may go on.
    fn judge_held(&mut self) {
        let scan = self.framing.scan(&self.held);
        match scan {
            Scan::All => self.ready = self.held.len(),
            Scan::PartialHead(at) => self.ready = at,
            Scan::Refused(at, refusal) => {
                self.held.truncate(at);
                self.stand_in(refusal);
            }
            Scan::Broken(at) => {
                self.held.truncate(at);
                self.ready = at;
                self.broken = true;
            }
        }
        self.after_scan(scan);
    }

    /// Scans what was just read into hyper's own buffer, of which `new` starts at `before`.
    fn judge_in_place(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let scan = self.framing.scan(&buf.filled()[before..]);
        match scan {
            Scan::All => {}
            Scan::PartialHead(at) => {
                self.held.extend_from_slice(&buf.filled()[before + at..]);
                buf.set_filled(before + at);
            }
            Scan::Refused(at, refusal) => {
                buf.set_filled(before + at);
                self.stand_in(refusal);
            }
            Scan::Broken(at) => {
                buf.set_filled(before + at);
                self.broken = true;
            }
        }
        self.after_scan(scan);
    }

    fn stand_in(&mut self, refusal: Refusal) {
        self.held.extend_from_slice(STAND_IN);
        self.ready = self.held.len();
        self.state.refused.set(Some(refusal));
    }

    fn after_scan(&mut self, scan: Scan) {
        let stand_in = u64::from(self.state.refused.get().is_some());
        self.state.heads.set(self.framing.heads() + stand_in);
        self.state.body_begun.set(self.framing.body_begun());
        let partial = matches!(scan, Scan::PartialHead(_));
        match (partial, self.state.partial_since.get()) {
            (true, None) => self.state.partial_since.set(Some(self.last_byte)),
            (false, Some(_)) => self.state.partial_since.set(None),
            _ => {}
        }
    }

    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let length = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..length]);
        self.held.advance(length);
        self.ready -= length;
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.state.opaque.get() {
                self.ready = self.held.len();
            }
            if self.ready > 0 {
                self.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            if self.state.opaque.get() {
                return Pin::new(&mut self.io).poll_read(cx, buf);
            }
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            if self.state.refused.get().is_some() || self.state.half_closed.get() {
                // Nothing more will be read: hyper closes after the answer in flight.
                return Poll::Pending;
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                return self.on_eof();
            }
            self.last_byte = Instant::now();
            if self.held.is_empty() {
                self.judge_in_place(buf, before);
            } else {
                self.held.extend_from_slice(&buf.filled()[before..]);
                buf.set_filled(before);
                self.judge_held();
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The client ended its side. With a whole request in hand that may mean "that was all"; see
    /// [`Limits::half_close_window`](crate::Limits::half_close_window).
    /// Otherwise hyper sees the end, and drops the request it serves.
    fn on_eof(&mut self) -> Poll<io::Result<()>> {
        self.saw_eof = true;
        let whole = self.framing.is_between_requests() && self.held.is_empty();
        if whole && self.state.is_busy() && self.last_byte.elapsed() < self.half_close_window {
            self.state.half_closed.set(true);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn note_write<R>(&self, polled: Poll<R>) -> Poll<R> {
        match (&polled, self.state.stalled_since.get()) {
            (Poll::Pending, None) => self.state.stalled_since.set(Some(Instant::now())),
            (Poll::Ready(_), Some(_)) => self.state.stalled_since.set(None),
            _ => {}
        }
        polled
    }
}

/// The handle on a [`Guard`] that hyper reads and writes through.
#[derive(Debug)]
pub(crate) struct GuardedIo<T>(pub(crate) Rc<RefCell<Guard<T>>>);

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut guard = self.0.borrow_mut();
        let polled = Pin::new(&mut guard.io).poll_write(cx, bytes);
        guard.note_write(polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut guard = self.0.borrow_mut();
        let polled = Pin::new(&mut guard.io).poll_write_vectored(cx, slices);
        guard.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.borrow().io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> GuardedIo<T> {
    /// Reads and forgets until the client has ended its side.
    pub(crate) async fn discard(&mut self) -> io::Result<()> {
        let mut space = [0; 8192];
        std::future::poll_fn(|cx| {
            let guard = &mut *self.0.borrow_mut();
            loop {
                let mut buf = ReadBuf::new(&mut space);
                ready!(Pin::new(&mut guard.io).poll_read(cx, &mut buf))?;
                if buf.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
            }
        })
        .await
    }
}
