//! Serves the admin endpoints on a listener of their own.

use std::{convert::Infallible, io, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    service::service_fn,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Admin, text};
use crate::{AcceptLoop, Backlog, FinishSignal, HttpOptions, Shutdown, serve_http};

/// A whole exchange, head to answer. The answers are small and made from memory.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT: AcceptLoop = AcceptLoop {
    peers: "users of the admin endpoints",
    // One scraper, one balancer and a few people; more is a mistake that must not cost memory.
    max_connections: 32,
    first_byte_timeout: EXCHANGE_TIMEOUT,
    // For answers in flight.
    drain_timeout: Duration::from_secs(1),
    backlog: Backlog::Serve,
};
const HTTP: HttpOptions = HttpOptions {
    head_timeout: EXCHANGE_TIMEOUT,
    keep_alive: false,
};

/// Answers the admin endpoints on `listener` until `shutdown` is triggered.
///
/// Give it a shutdown that is triggered after the drain ([`Shutdown::child`] or one of its own)
/// if `/readyz` and `/metrics` should be seen meanwhile.
///
/// One exchange per connection: it is not worth keeping them.
///
/// # Errors
/// None today; an accept that fails is logged and tried again.
pub async fn serve(listener: TcpListener, admin: Admin, shutdown: Shutdown) -> io::Result<()> {
    let served = ACCEPT.run(listener, shutdown.token(), |accepted| {
        let admin = admin.clone();
        accepted.spawn(|stream, _peer, finish| exchange(stream, finish, admin));
    });
    if let Err(cut_off) = served.await {
        tracing::debug!("admin endpoints: {cut_off}");
    }
    Ok(())
}

async fn exchange(stream: TcpStream, finish: FinishSignal, admin: Admin) {
    let service = service_fn(|request| {
        let response = answer(&admin, &request);
        async { Ok::<_, Infallible>(response) }
    });
    match timeout(EXCHANGE_TIMEOUT, serve_http(stream, HTTP, finish, service)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection"),
        Err(_) => tracing::debug!("admin connection: too slow, closed"),
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    admin.respond(request).unwrap_or_else(|| {
        let there_is = "not found; there is /healthz, /readyz and /metrics\n";
        text(StatusCode::NOT_FOUND, there_is)
    })
}
