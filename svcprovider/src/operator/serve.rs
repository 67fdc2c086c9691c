//! The thread that serves the operator API.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bismuth_daemon::listen::CoreListener;
use bismuth_daemon::{AcceptLoop, Backlog, FinishSignal, Shutdown, cores, run_per_core};
use bismuth_http::{Limits, serve_connection};
use thiserror::Error;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::OperatorApi;

/// Operators are few. When there are more, those that came first make room, at once if they say nothing.
const CONNECTIONS: usize = 256;

/// Why operators cannot be served.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum OperatorError {
    #[error("serve operators")]
    Thread(#[source] cores::CoresError),
    #[error("listen for operators")]
    Listen(#[source] std::io::Error),
}

/// Serves until the shutdown, and then what is in flight for at most `drain`.
///
/// # Errors
/// When the thread cannot be started or fails.
pub async fn run(
    listener: CoreListener,
    operator: OperatorApi,
    drain: Duration,
    shutdown: Shutdown,
) -> Result<(), OperatorError> {
    let listener = std::sync::Mutex::new(Some(listener));
    let cores = run_per_core(1, "operator", move |_core| {
        let listener = listener.lock().ok().and_then(|mut held| held.take());
        let (operator, shutdown) = (operator.clone(), shutdown.clone());
        async move {
            match listener {
                Some(listener) => serve(listener, operator, drain, shutdown).await,
                None => Ok(()),
            }
        }
    });
    let cores = cores.map_err(OperatorError::Thread)?;
    cores.finished().await.map_err(OperatorError::Thread)
}

async fn serve(
    listener: CoreListener,
    operator: OperatorApi,
    drain: Duration,
    shutdown: Shutdown,
) -> Result<(), OperatorError> {
    let listener = listener.into_tokio().map_err(OperatorError::Listen)?;
    let operator = Rc::new(operator);
    let limits = Limits::new("svcprovider");
    let accept = AcceptLoop {
        peers: "operators",
        max_connections: CONNECTIONS,
        first_byte_timeout: limits.first_byte_timeout,
        drain_timeout: drain,
        backlog: Backlog::Serve,
    };
    let limits = Rc::new(limits);
    let served = accept.run(listener, shutdown.token(), |accepted| {
        let (operator, limits) = (Rc::clone(&operator), Rc::clone(&limits));
        accepted.spawn_local(async move |stream, peer, finish| {
            connection(stream, peer, finish, &operator, &limits).await;
        });
    });
    if let Err(cut_off) = served.await {
        warn!("operators: {cut_off}");
    }
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    finish: FinishSignal,
    operator: &OperatorApi,
    limits: &Limits,
) {
    let service = |request, _client| operator.answer(request);
    let served = serve_connection(stream, peer, limits, finish.requested(), service);
    if let Err(error) = served.await {
        debug!(
            error = bismuth_base::chain(&error),
            "an operator's connection ended early"
        );
    }
}
