//! After a 101: bytes both ways, until both sides are done.
//!
//! Either side may end its direction while the other goes on (half-close); silence in both directions for the idle
//! timeout ends the tunnel.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::body::{End, OnEnd, Outcome};
use crate::client::Upgraded;
use crate::pool::Lease;

/// Per direction: a page-cache-friendly size that still leaves ten thousand tunnels in 320 MiB.
const BUFFER: usize = 16 * 1024;

/// The upstream half of an upgraded exchange, waiting for the client's half.
pub(crate) struct Tunnel {
    pub(crate) upstream: oneshot::Receiver<Upgraded>,
    pub(crate) idle: Duration,
    pub(crate) on_end: Option<Box<dyn OnEnd>>,
    /// Keeps the driver alive that hands over the upstream's stream.
    pub(crate) lease: Lease,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel")
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Tunnel {
    /// Copies until both directions have ended, one failed, or the idle timeout passed.
    pub(crate) async fn run(mut self, client: impl AsyncRead + AsyncWrite + Unpin, read: Bytes) {
        let traffic = Rc::new(Traffic::new());
        let ended = match (&mut self.upstream).await {
            Ok(upstream) => copy_both(client, read, upstream, self.idle, &traffic).await,
            Err(gone) => Err(io::Error::other(gone)),
        };
        drop(self.lease);
        let outcome = match &ended {
            Ok(()) => Outcome::Complete,
            Err(error) => {
                tracing::debug!(%error, "tunnel ended");
                Outcome::Broken
            }
        };
        if let Some(mut on_end) = self.on_end {
            let bytes = traffic.bytes.get();
            on_end.on_end(End { bytes, outcome });
        }
    }
}

/// What moved, and when last.
struct Traffic {
    bytes: Cell<u64>,
    last: Cell<Instant>,
}

impl Traffic {
    fn new() -> Self {
        Traffic {
            bytes: Cell::new(0),
            last: Cell::new(Instant::now()),
        }
    }

    fn moved(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.last.set(Instant::now());
    }

    async fn silence(&self, idle: Duration) -> io::Error {
        loop {
            let deadline = self.last.get() + idle;
            tokio::time::sleep_until(deadline).await;
            if self.last.get() + idle <= Instant::now() {
                return io::ErrorKind::TimedOut.into();
            }
        }
    }
}

async fn copy_both(
    client: impl AsyncRead + AsyncWrite + Unpin,
    from_client: Bytes,
    upstream: Upgraded,
    idle: Duration,
    traffic: &Traffic,
) -> io::Result<()> {
    let (client_reader, client_writer) = tokio::io::split(client);
    let (upstream_reader, upstream_writer) = tokio::io::split(upstream.io);
    let up = copy(client_reader, from_client, upstream_writer, traffic);
    let down = copy(upstream_reader, upstream.read, client_writer, traffic);
    tokio::select! {
        both = async { tokio::try_join!(up, down) } => both.map(|_| ()),
        error = traffic.silence(idle) => Err(error),
    }
}

/// One direction: what was read before, then the stream, then its end.
async fn copy(
    mut reader: impl AsyncRead + Unpin,
    first: Bytes,
    mut writer: impl AsyncWrite + Unpin,
    traffic: &Traffic,
) -> io::Result<()> {
    writer.write_all(&first).await?;
    traffic.moved(first.len());
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = reader.read(&mut buffer).await?;
        if length == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(&buffer[..length]).await?;
        traffic.moved(length);
    }
}
