//! Serves the router and the admin endpoints, with bounds that `axum::serve` does not have.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bismuth_daemon::{AcceptLoop, Admin, Backlog, FinishSignal, HttpOptions, Shutdown, serve_http};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::net::{TcpListener, TcpStream};
use tower::Service as _;

/// Deployers, dashboards and those who follow logs.
const MAX_CONNECTIONS: usize = 1024;
/// A request head, and how long a connection may be idle before the first one or the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers until the shutdown, and then what is in flight, for at most `drain`.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    admin: Admin,
    shutdown: Shutdown,
    drain: Duration,
) {
    let accept = AcceptLoop {
        peers: "callers",
        max_connections: MAX_CONNECTIONS,
        first_byte_timeout: HEAD_TIMEOUT,
        drain_timeout: drain,
        backlog: Backlog::Serve,
    };
    let served = accept.run(listener, shutdown.token(), |accepted| {
        let (router, admin) = (router.clone(), admin.clone());
        accepted.spawn(|stream, _peer, finish| connection(stream, finish, router, admin));
    });
    if let Err(cut_off) = served.await {
        tracing::warn!("{cut_off}");
    }
}

async fn connection(stream: TcpStream, finish: FinishSignal, router: Router, admin: Admin) {
    let service = service_fn(|request: Request<Incoming>| {
        let (admin, mut router) = (admin.clone(), router.clone());
        async move {
            if let Some(answer) = admin.respond(&request) {
                return Ok::<_, Infallible>(answer.map(Body::new));
            }
            router.call(request.map(Body::new)).await
        }
    });
    let options = HttpOptions {
        head_timeout: HEAD_TIMEOUT,
        keep_alive: true,
    };
    if let Err(error) = serve_http(stream, options, finish, service).await {
        tracing::debug!(%error, "connection");
    }
}
