//! The thread that serves operators.

use std::rc::Rc;
use std::time::Duration;

use bismuth_daemon::listen::CoreListener;
use bismuth_daemon::{Shutdown, cores, run_per_core};
use bismuth_http::{Crowd, Limits, serve_connection};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::Operator;

/// Operators are few. When there are more, those that came first make room, at once if they say nothing.
const CONNECTIONS: usize = 256;
/// Accepting fails when descriptors run out; they come back as connections end.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Why operators cannot be served.
#[derive(Debug, Error)]
pub enum OperatorError {
    /// The thread.
    #[error("serve operators")]
    Thread(#[source] cores::CoresError),
    /// The listener could not be registered.
    #[error("listen for operators")]
    Listen(#[source] std::io::Error),
}

/// Serves until the shutdown, and then what is in flight for at most `drain`.
///
/// # Errors
/// When the thread cannot be started or fails.
pub async fn run(
    listener: CoreListener,
    operator: Operator,
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
    operator: Operator,
    drain: Duration,
    shutdown: Shutdown,
) -> Result<(), OperatorError> {
    let listener = listener.into_tokio().map_err(OperatorError::Listen)?;
    let operator = Rc::new(operator);
    let connections = TaskTracker::new();
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept(&listener, &operator, &connections, &shutdown) => {}
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(drain, connections.wait())
        .await
        .is_err()
    {
        warn!(
            connections = connections.len(),
            "connections of operators did not end in time"
        );
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    operator: &Rc<Operator>,
    connections: &TaskTracker,
    shutdown: &Shutdown,
) {
    let crowd = Crowd::new(CONNECTIONS);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept an operator");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let mut place = crowd.enter().await;
        let (operator, shutdown) = (Rc::clone(operator), shutdown.clone());
        connections.spawn_local(async move {
            let drain = async {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = place.wanted() => {}
                }
            };
            let limits = Limits::new("svcprovider");
            let service = |request, _client| operator.answer(request);
            let served = serve_connection(stream, peer, &limits, drain, service);
            if let Err(error) = served.await {
                debug!(
                    error = bismuth_daemon::exit::chain(&error),
                    "an operator's connection ended early"
                );
            }
        });
    }
}
