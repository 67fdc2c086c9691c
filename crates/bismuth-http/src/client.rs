//! One HTTP/1.1 connection to an upstream, with the knowledge whether a byte was written to it.
//!
//! The connection's driver is a local task; dropping the [`Connection`] ends it at once, and with it the socket:
//! a client that leaves must not leave work behind.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::body::Body;

/// Bytes that hyper may buffer per direction: larger than the largest head we accept, small enough that ten thousand
/// connections fit in memory.
pub(crate) const MAX_BUFFER: usize = 128 * 1024;

/// A byte stream that HTTP can be spoken over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Whether the peer has neither closed nor sent anything: false means that an idle connection must not be used again.
    fn is_quiet(&self) -> bool;
}

impl Transport for TcpStream {
    fn is_quiet(&self) -> bool {
        would_block(socket2::SockRef::from(self).peek(&mut [MaybeUninit::uninit()]))
    }
}

impl Transport for UnixStream {
    fn is_quiet(&self) -> bool {
        would_block(socket2::SockRef::from(self).peek(&mut [MaybeUninit::uninit()]))
    }
}

impl Transport for tokio::io::DuplexStream {
    fn is_quiet(&self) -> bool {
        // An in-memory pipe cannot be peeked at; its driver notices an end by itself.
        true
    }
}

fn would_block(peeked: io::Result<usize>) -> bool {
    matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Why a connection could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("start HTTP on a new connection")]
pub struct HandshakeError(#[source] hyper::Error);

/// Why no response came.
#[derive(Debug, thiserror::Error)]
#[error("send a request and read the head of its response")]
pub struct SendError {
    /// Whether the kernel took a byte of the request: if not, the upstream cannot have acted on it.
    pub written: bool,
    /// Whether a byte of a response was seen.
    pub answered: bool,
    /// What hyper said.
    #[source]
    pub source: hyper::Error,
}

/// An upgraded connection: the stream, and what was already read from it.
pub(crate) struct Upgraded {
    pub(crate) io: Box<dyn Duplex>,
    pub(crate) read: Bytes,
}

/// A stream whose type is forgotten; upgrades are not the hot path.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A connection for one request at a time. See the module.
pub struct Connection {
    sender: SendRequest<Body>,
    driver: AbortHandle,
    meter: Rc<Meter>,
    socket: Rc<dyn Probe>,
    upgraded: Option<oneshot::Receiver<Upgraded>>,
    /// When it was last given back.
    pub(crate) idle_since: Instant,
}

/// Bytes that passed, as the kernel took and gave them.
#[derive(Debug, Default)]
struct Meter {
    written: Cell<u64>,
    read: Cell<u64>,
    /// Whether the current request asks for another protocol.
    upgrading: Cell<bool>,
    /// The peer takes no more bytes.
    deaf: Cell<bool>,
}

trait Probe {
    fn is_quiet(&self) -> bool;
}

impl<T: Transport> Probe for RefCell<T> {
    fn is_quiet(&self) -> bool {
        self.borrow().is_quiet()
    }
}

impl Connection {
    /// Starts HTTP on a fresh stream. Must run inside a `LocalSet`.
    pub async fn handshake<T: Transport>(io: T) -> Result<Self, HandshakeError> {
        let meter = Rc::new(Meter::default());
        let socket = Rc::new(RefCell::new(io));
        let metered = Metered {
            io: socket.clone(),
            meter: meter.clone(),
        };
        let (sender, connection) = Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake(TokioIo::new(metered))
            .await
            .map_err(HandshakeError)?;
        let (upgraded, receiver) = oneshot::channel();
        let driver = tokio::task::spawn_local(drive(connection, meter.clone(), upgraded));
        Ok(Connection {
            sender,
            driver: driver.abort_handle(),
            meter,
            socket,
            upgraded: Some(receiver),
            idle_since: Instant::now(),
        })
    }

    /// Sends one request and waits for the head of its response. Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`SendError`] says whether the request may have reached the upstream.
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, SendError> {
        let (written, read) = (self.meter.written.get(), self.meter.read.get());
        let upgrading = request.headers().contains_key(http::header::UPGRADE);
        self.meter.upgrading.set(upgrading);
        let sent = self.sender.try_send_request(request).await;
        sent.map_err(|mut error| SendError {
            written: self.meter.written.get() > written,
            answered: self.meter.read.get() > read,
            source: {
                drop(error.take_message());
                error.into_error()
            },
        })
    }

    /// Whether the last exchange is over and another may begin.
    pub fn is_ready(&self) -> bool {
        self.sender.is_ready() && !self.meter.deaf.get()
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether the peer neither closed it nor spoke out of turn, asking the socket itself.
    pub(crate) fn is_quiet(&self) -> bool {
        self.socket.is_quiet()
    }

    /// What the connection becomes after a 101.
    pub(crate) fn take_upgraded(&mut self) -> Option<oneshot::Receiver<Upgraded>> {
        self.upgraded.take()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("ready", &self.is_ready())
            .finish_non_exhaustive()
    }
}

type HyperConnection<T> = hyper::client::conn::http1::Connection<TokioIo<Metered<T>>, Body>;

async fn drive<T: Transport>(
    connection: HyperConnection<T>,
    meter: Rc<Meter>,
    upgraded: oneshot::Sender<Upgraded>,
) {
    match connection.without_shutdown().await {
        Ok(parts) if meter.upgrading.get() => {
            // Nobody waits for it if the answer was not 101 or the client has left: the socket closes.
            drop(upgraded.send(Upgraded {
                io: Box::new(parts.io.into_inner()),
                read: parts.read_buf,
            }));
        }
        Ok(_) => {}
        // The exchange in flight, if any, was given the error; an idle connection's end is no news.
        Err(error) => tracing::debug!(%error, "upstream connection ended"),
    }
}

/// Counts what passes, and goes on reading from a peer that takes no more bytes.
///
/// An upstream may answer without reading the whole request and close; our next write then fails while the answer waits to be
/// read (RFC 9112 section 9.5). So a failed write is pretended, and reading tells what became of the exchange: the answer, or the
/// connection's end.
struct Metered<T> {
    io: Rc<RefCell<T>>,
    meter: Rc<Meter>,
}

impl<T> Metered<T> {
    fn note_write(
        &self,
        polled: Poll<io::Result<usize>>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Ok(bytes)) => {
                let written = &self.meter.written;
                written.set(written.get() + bytes as u64);
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "upstream takes no more of a request");
                self.meter.deaf.set(true);
                Poll::Ready(Ok(length))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: Transport> AsyncRead for Metered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        self.meter.read.set(self.meter.read.get() + bytes as u64);
        polled
    }
}

impl<T: Transport> AsyncWrite for Metered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.meter.deaf.get() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut *self.io.borrow_mut()).poll_write(cx, bytes);
        self.note_write(polled, bytes.len())
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.meter.deaf.get() {
            return Poll::Ready(Ok(length));
        }
        let polled = Pin::new(&mut *self.io.borrow_mut()).poll_write_vectored(cx, slices);
        self.note_write(polled, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)
    }
}
