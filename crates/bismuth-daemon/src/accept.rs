//! The accept loop of a listener: a connection limit, deadlines, and a shutdown that resets no connection.
//!
//! ```text
//!   accept ─► permit ─► first byte ─► serve(stream, peer, finish)
//!     │         │ none left: the oldest connection is told to finish
//!     │ fails: backoff
//!     │
//!     └─ shutdown ─► the backlog is accepted without waiting ─► the listener is dropped
//!                 └► every connection is told to finish      ─► drain timeout: the rest is cut off and counted
//! ```
//!
//! It spawns one task per connection, on the thread that it runs on ([`Accepted::spawn_local`]) or on a multi-threaded
//! runtime ([`Accepted::spawn`]), and owns them: dropping the loop ends its connections.
//!
//! What closing a listener cannot avoid: a client whose handshake ends between the last accept and the close is reset, and so
//! is one whose handshake has begun and not ended, for as long as its round trip takes. A client that arrives later is
//! refused, and can tell that nothing was read.

mod limiter;

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bismuth_base::{Backoff, Delays};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::listen::BACKLOG;
use limiter::{ConnectionLimiter, ConnectionPermit};

/// Accepting fails for a while when descriptors run out; turning in a circle would not help.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
/// A client that connected right before the shutdown sends its request at once; its first bytes may be on their way.
const FIRST_BYTE_GRACE: Duration = Duration::from_secs(1);

/// What happens to connections that the kernel has established and that are not served yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// When all permits are held, the oldest connection makes room for a new one. At the shutdown all are accepted and
    /// served: closing the listener would reset them.
    Serve,
    /// They stay in the backlog until there is a permit, also at the shutdown. For a socket that another process holds,
    /// too, so that what this one does not accept waits for the next one: both bismuthd and svcprovider hold a container's
    /// service socket, and it outlives either.
    Retain,
}

/// The bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct AcceptLoop {
    /// Who connects, for the log: `clients`.
    pub peers: &'static str,
    /// Connections at a time, at least 1.
    pub max_connections: usize,
    /// From accepting a connection to its first byte. What follows is for whoever serves it.
    pub first_byte_timeout: Duration,
    /// How long connections may take to end after the shutdown.
    pub drain_timeout: Duration,
    /// What happens to connections beyond the limit, and at the shutdown.
    pub backlog: Backlog,
}

/// Connections were still open when the drain timeout had passed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{left} connections were cut off after a drain of {} ms", .after.as_millis())]
pub struct CutOff {
    /// How many.
    pub left: usize,
    /// The drain timeout.
    pub after: Duration,
}

impl AcceptLoop {
    /// Accepts on `listener` until `shutdown` is cancelled, then drains. `serve` is called with each connection, and
    /// spawns what serves it.
    ///
    /// # Errors
    /// [`CutOff`] when connections did not end within the drain timeout. They are gone when this returns.
    pub async fn run<L: Borrow<TcpListener>>(
        self,
        listener: L,
        shutdown: CancellationToken,
        mut serve: impl FnMut(Accepted<'_>),
    ) -> Result<(), CutOff> {
        let mut running = Running {
            limiter: ConnectionLimiter::new(self.max_connections.max(1)),
            connections: JoinSet::new(),
            bounds: self,
            shutdown,
        };
        let mut waiting = VecDeque::new();
        waiting.extend(running.accept(listener.borrow(), &mut serve).await);
        if self.backlog == Backlog::Serve {
            waiting.extend(accept_backlog(listener.borrow(), self.peers));
        }
        drop(listener);
        running.drain(waiting, &mut serve).await
    }
}

struct Running {
    bounds: AcceptLoop,
    shutdown: CancellationToken,
    limiter: ConnectionLimiter,
    connections: JoinSet<()>,
}

impl Running {
    /// Accepts until the shutdown. Returns the connection that waited for its permit then.
    async fn accept(
        &mut self,
        listener: &TcpListener,
        serve: &mut impl FnMut(Accepted<'_>),
    ) -> Option<(TcpStream, SocketAddr)> {
        let mut failures = Failures::new(self.bounds.peers);
        let shutdown = self.shutdown.clone();
        loop {
            let early_permit = match self.bounds.backlog {
                Backlog::Serve => None,
                Backlog::Retain => tokio::select! {
                    permit = self.limiter.wait() => Some(permit),
                    () = shutdown.cancelled() => return None,
                },
            };
            // Safe to cancel: a connection that was not accepted stays in the backlog, an ended one in the set.
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return None,
                Some(_ended) = self.connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => tokio::select! {
                    () = failures.back_off(&error) => continue,
                    () = shutdown.cancelled() => return None,
                },
            };
            failures = Failures::new(self.bounds.peers);
            let permit = match early_permit {
                Some(permit) => permit,
                None => tokio::select! {
                    permit = self.limiter.acquire() => permit,
                    () = shutdown.cancelled() => return Some(accepted),
                },
            };
            self.start(accepted, permit, serve);
        }
    }

    fn start(
        &mut self,
        (stream, peer): (TcpStream, SocketAddr),
        permit: ConnectionPermit,
        serve: &mut impl FnMut(Accepted<'_>),
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "answers may be delayed by Nagle's algorithm");
        }
        serve(Accepted {
            connections: &mut self.connections,
            connection: Connection {
                stream,
                peer,
                permit,
                shutdown: self.shutdown.clone(),
                accepted_at: Instant::now(),
                first_byte_timeout: self.bounds.first_byte_timeout,
            },
        });
    }

    /// Serves those that wait as others make room for them, and lets all end.
    async fn drain(
        mut self,
        mut waiting: VecDeque<(TcpStream, SocketAddr)>,
        serve: &mut impl FnMut(Accepted<'_>),
    ) -> Result<(), CutOff> {
        let after = self.bounds.drain_timeout;
        let all = async {
            while !waiting.is_empty() {
                let permit = self.limiter.acquire().await;
                if let Some(accepted) = waiting.pop_front() {
                    self.start(accepted, permit, serve);
                }
            }
            while self.connections.join_next().await.is_some() {}
        };
        if timeout(after, all).await.is_ok() {
            return Ok(());
        }
        while self.connections.try_join_next().is_some() {}
        let left = self.connections.len() + waiting.len();
        self.connections.shutdown().await;
        Err(CutOff { left, after })
    }
}

/// Attempts to accept that failed one after the other.
struct Failures {
    peers: &'static str,
    delays: Delays,
    reported: bool,
}

impl Failures {
    fn new(peers: &'static str) -> Self {
        Self {
            peers,
            delays: ACCEPT_BACKOFF.delays(),
            reported: false,
        }
    }

    async fn back_off(&mut self, error: &io::Error) {
        // Once in a row: when descriptors run out, every listener says so, again and again.
        if !std::mem::replace(&mut self.reported, true) {
            tracing::warn!(%error, peers = self.peers, "cannot accept connections for now");
        }
        sleep(self.delays.next_delay()).await;
    }
}

/// What the kernel has established for us. Asked of the kernel itself: tokio accepts only once its driver has heard of a
/// connection, and it may not have.
fn accept_backlog(listener: &TcpListener, peers: &str) -> Vec<(TcpStream, SocketAddr)> {
    let accept_now = || -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, peer) = SockRef::from(listener).accept()?;
        socket.set_nonblocking(true)?;
        let peer = peer.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        Ok((TcpStream::from_std(socket.into())?, peer))
    };
    let (mut accepted, mut failed) = (Vec::new(), None);
    // The queue cannot have been longer; clients who keep coming do not keep the listener open.
    for _ in 0..=BACKLOG {
        match accept_now() {
            Ok(connection) => accepted.push(connection),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // It may be the error of one connection only (accept(2)).
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        tracing::warn!(%error, peers, "cannot accept all connections before the shutdown");
    }
    accepted
}

/// A connection that was accepted and is not served yet.
pub struct Accepted<'a> {
    connections: &'a mut JoinSet<()>,
    connection: Connection,
}

impl Accepted<'_> {
    /// Serves it on the runtime's threads. `serve` is called once its first bytes are there.
    pub fn spawn<F, S>(self, serve: F)
    where
        F: FnOnce(TcpStream, SocketAddr, FinishSignal) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        self.connections.spawn(self.connection.serve(serve));
    }

    /// Serves it on this thread; call it inside a `LocalSet`. `serve` is called once its first bytes are there.
    pub fn spawn_local<F, S>(self, serve: F)
    where
        F: FnOnce(TcpStream, SocketAddr, FinishSignal) -> S + 'static,
        S: Future<Output = ()> + 'static,
    {
        self.connections.spawn_local(self.connection.serve(serve));
    }
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
    shutdown: CancellationToken,
    accepted_at: Instant,
    first_byte_timeout: Duration,
}

impl Connection {
    async fn serve<F, S>(self, serve: F)
    where
        F: FnOnce(TcpStream, SocketAddr, FinishSignal) -> S,
        S: Future<Output = ()>,
    {
        let (_permit, make_room) = self.permit.into_parts();
        let mut finish = FinishSignal {
            shutdown: self.shutdown,
            make_room,
            given: None,
        };
        let first_byte_by = self.accepted_at + self.first_byte_timeout;
        let grace = first_byte_by.min(self.accepted_at + FIRST_BYTE_GRACE);
        let silent = async {
            match timeout_at(first_byte_by, finish.reason()).await {
                Err(_elapsed) => {}
                Ok(Reason::Shutdown) => sleep_until(grace).await,
                Ok(Reason::MakeRoom) => {}
            }
            let_arrived_bytes_be_read().await;
        };
        // Not `readable`: tokio takes a new connection to be so until it has been tried.
        let mut first_byte = [0];
        let has_come = tokio::select! {
            biased;
            peeked = self.stream.peek(&mut first_byte) => peeked.is_ok_and(|bytes| bytes > 0),
            () = silent => false,
        };
        let peer = self.peer;
        if has_come {
            serve(self.stream, peer, finish).await;
        } else {
            tracing::debug!(%peer, "a connection was closed that had sent nothing");
        }
    }
}

/// Tells whoever serves a connection to end it after the answer in flight, at once if there is none.
#[derive(Debug)]
pub struct FinishSignal {
    shutdown: CancellationToken,
    make_room: oneshot::Receiver<()>,
    /// The signal is given once and asked for twice: before the first byte, and by whoever serves.
    given: Option<Reason>,
}

#[derive(Clone, Copy, Debug)]
enum Reason {
    Shutdown,
    MakeRoom,
}

impl FinishSignal {
    /// Waits until the connection should end, because of the shutdown or to make room for another client.
    ///
    /// Poll it beside the connection: a request that arrived before the signal is read by then, so that an idle
    /// connection is not closed with a request unread.
    pub async fn requested(mut self) {
        let reason = self.reason().await;
        tracing::debug!(?reason, "a connection is told to finish");
        let_arrived_bytes_be_read().await;
    }

    /// Safe to cancel.
    async fn reason(&mut self) -> Reason {
        if let Some(reason) = self.given {
            return reason;
        }
        let reason = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Reason::Shutdown,
            // The sender is dropped with the accept loop only.
            Ok(()) = &mut self.make_room => Reason::MakeRoom,
        };
        *self.given.insert(reason)
    }
}

/// In one turn the runtime's driver hears of bytes that have arrived, in the next one whoever is polled beside this reads them.
async fn let_arrived_bytes_be_read() {
    yield_now().await;
    yield_now().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_seen_before_the_first_byte_is_seen_again_by_whoever_serves() {
        let (oldest, make_room) = oneshot::channel();
        let mut finish = FinishSignal {
            shutdown: CancellationToken::new(),
            make_room,
            given: None,
        };
        oldest.send(()).expect("it is awaited");
        finish.reason().await;
        timeout(Duration::from_secs(10), finish.requested())
            .await
            .expect("it was given");
    }
}
