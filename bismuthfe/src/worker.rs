//! One thread of the data path: accept, serve, and at the end drain.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bismuth_daemon::{Backoff, Shutdown};
use bismuth_http::{Crowd, Place, ServeError, serve_connection};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::Proxy;

/// Accepting fails for a while when descriptors run out; turning in a circle would not help.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));

/// Connections still open when the drain's time was over.
#[derive(Debug, thiserror::Error)]
#[error("{left} connections were cut off after a drain of {} ms", .after.as_millis())]
pub struct CutOff {
    left: usize,
    after: Duration,
}

/// What one worker runs on.
pub struct Worker {
    /// The configuration.
    pub config: Arc<Config>,
    /// Answers the requests.
    pub proxy: Rc<Proxy>,
    /// Counts the connections.
    pub metrics: Metrics,
    /// Begins the drain.
    pub shutdown: Shutdown,
}

impl Worker {
    /// Serves `listener` until the shutdown; then ends what is in flight, within the drain's time.
    ///
    /// # Errors
    /// [`CutOff`] when that was not enough.
    pub async fn run(self, listener: TcpListener) -> Result<(), CutOff> {
        let worker = Rc::new(self);
        let crowd = Crowd::new(worker.config.max_connections_per_worker);
        let connections = TaskTracker::new();
        let proxy = worker.proxy.clone();
        let sweeper = tokio::task::spawn_local(async move { proxy.keep_swept().await });
        worker.accept(&listener, &crowd, &connections).await;
        // What the kernel has accepted for us is served too: closing the listener would reset it.
        while let Some(accepted) = accept_now(&listener).await {
            if let Some(place) = crowd.try_enter() {
                worker.spawn(accepted, place, &connections);
            }
        }
        drop(listener);
        connections.close();
        let after = worker.config.drain;
        let drained = timeout(after, connections.wait()).await;
        sweeper.abort();
        drained.map_err(|_| CutOff {
            left: connections.len(),
            after,
        })
    }

    async fn accept(
        self: &Rc<Self>,
        listener: &TcpListener,
        crowd: &Crowd,
        connections: &TaskTracker,
    ) {
        let mut delays = ACCEPT_BACKOFF.delays();
        let mut shutdown = pin!(self.shutdown.cancelled());
        loop {
            // Safe to cancel: a connection that was not accepted stays in the backlog.
            let accepted = tokio::select! {
                biased;
                () = &mut shutdown => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => {
                    delays.reset();
                    let place = tokio::select! {
                        place = crowd.enter() => place,
                        () = &mut shutdown => return,
                    };
                    self.spawn(accepted, place, connections);
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a client");
                    tokio::time::sleep(delays.next_delay()).await;
                }
            }
        }
    }

    fn spawn(
        self: &Rc<Self>,
        accepted: (TcpStream, SocketAddr),
        place: Place,
        connections: &TaskTracker,
    ) {
        let worker = self.clone();
        connections.spawn_local(async move { worker.serve(accepted, place).await });
    }

    async fn serve(&self, (stream, peer): (TcpStream, SocketAddr), mut place: Place) {
        let _counted = self.metrics.connection();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "answers may be delayed by Nagle's algorithm");
        }
        let limits = &self.config.limits;
        let drain = async {
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = place.wanted() => tracing::debug!(%peer, "makes room for another client"),
            }
        };
        let service = |request, client| self.proxy.clone().serve(request, client);
        match serve_connection(stream, peer, limits, drain, service).await {
            Ok(()) => {}
            Err(ServeError::Http(error)) => tracing::debug!(%error, %peer, "connection broke"),
            Err(error) => tracing::debug!(%error, %peer, "connection closed"),
        }
    }
}

/// A connection that waits to be accepted, if one does.
async fn accept_now(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    let polled = |polled: Poll<io::Result<_>>| match polled {
        Poll::Ready(Ok(accepted)) => Poll::Ready(Some(accepted)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    };
    std::future::poll_fn(|cx| polled(listener.poll_accept(cx))).await
}
