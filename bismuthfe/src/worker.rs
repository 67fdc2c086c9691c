//! A worker thread: serves the connections of its listener, and drains them at shutdown.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bismuth_daemon::{AcceptLoop, Backlog, CutOff, FinishSignal, Shutdown};
use bismuth_http::{ServeError, serve_connection};
use tokio::net::{TcpListener, TcpStream};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::Proxy;

/// What one worker runs on.
pub struct Worker {
    pub config: Arc<Config>,
    pub proxy: Rc<Proxy>,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
}

impl Worker {
    /// Serves `listener` until the shutdown; then ends what is in flight, within the drain's time.
    ///
    /// # Errors
    /// [`CutOff`] when that was not enough.
    pub async fn run(self, listener: TcpListener) -> Result<(), CutOff> {
        let worker = Rc::new(self);
        let proxy = worker.proxy.clone();
        let sweeper = tokio::task::spawn_local(async move { proxy.keep_swept().await });
        let accept = AcceptLoop {
            peers: "clients",
            max_connections: worker.config.max_connections_per_worker,
            first_byte_timeout: worker.config.limits.first_byte_timeout,
            drain_timeout: worker.config.drain,
            backlog: Backlog::Serve,
        };
        let shutdown = worker.shutdown.token();
        let served = accept.run(listener, shutdown, |accepted| {
            let (worker, counted) = (worker.clone(), worker.metrics.connection());
            accepted.spawn_local(async move |stream, peer, finish| {
                let _counted = counted;
                worker.serve(stream, peer, finish).await;
            });
        });
        let served = served.await;
        sweeper.abort();
        served
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, finish: FinishSignal) {
        let limits = &self.config.limits;
        let service = |request, client| self.proxy.clone().serve(request, client);
        match serve_connection(stream, peer, limits, finish.requested(), service).await {
            Ok(()) => {}
            Err(ServeError::Http(error)) => tracing::debug!(%error, %peer, "connection broke"),
            Err(error) => tracing::debug!(%error, %peer, "connection closed"),
        }
    }
}
