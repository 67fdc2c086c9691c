//! Taking connections, with bounds that `axum::serve` does not have, and letting calls in flight end.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bismuth_daemon::{Admin, Backoff, Shutdown};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Service as _;

/// Deployers, dashboards and those who follow logs.
const MAX_CONNECTIONS: usize = 1024;
/// A request head, and how long a kept connection may be idle before the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// Accepting fails for a while when descriptors run out; turning in a circle would not help.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// Answers until the shutdown, and then what is in flight, for at most `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    admin: Admin,
    shutdown: Shutdown,
    drain: Duration,
) {
    let mut connections = JoinSet::new();
    let mut delays = ACCEPT_BACKOFF.delays();
    loop {
        // Safe to cancel: a connection that was not accepted stays in the backlog, and an ended one in the set.
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    delays.reset();
                    connections.spawn(connection(stream, router.clone(), admin.clone(), shutdown.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(delays.next_delay()).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(drain, all).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "calls did not end in time, their connections are closed"
        );
    }
}

async fn connection(stream: TcpStream, router: Router, admin: Admin, shutdown: Shutdown) {
    // Small answers should not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let service = service_fn(|request: Request<Incoming>| {
        let (admin, mut router) = (admin.clone(), router.clone());
        async move {
            if let Some(answer) = admin.respond(&request) {
                return Ok::<_, Infallible>(answer.map(Body::new));
            }
            router.call(request.map(Body::new)).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection");
    }
}
