//! A listener for the admin endpoints alone.

use std::{convert::Infallible, io, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::{Admin, text};
use crate::{Backoff, Shutdown};

/// One scraper, one balancer and a few people; more is a mistake that must not cost memory.
const MAX_CONNECTIONS: usize = 32;
/// A whole exchange, head to answer. The answers are small and made from memory.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long answers in flight may take once the shutdown is triggered.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Accepting fails for a while when descriptors run out; turning in a circle would not help.
const ACCEPT_BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));

/// Answers the admin endpoints on `listener` until `shutdown` is triggered.
///
/// Give it a shutdown that is triggered after the drain ([`Shutdown::child`] or one of its own)
/// if `/readyz` and `/metrics` should be seen meanwhile.
///
/// One exchange per connection: it is not worth keeping them, and so ending is simple.
///
/// # Errors
/// None today; an accept that fails is logged and tried again.
pub async fn serve(listener: TcpListener, admin: Admin, shutdown: Shutdown) -> io::Result<()> {
    let mut connections = JoinSet::new();
    let mut delays = ACCEPT_BACKOFF.delays();
    loop {
        // Safe to cancel: a connection that was not accepted stays in the backlog, and an ended
        // one stays in the set.
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    delays.reset();
                    connections.spawn(exchange(stream, admin.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept on the admin listener");
                    tokio::time::sleep(delays.next_delay()).await;
                }
            },
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_ANSWERS, all).await.is_err() {
        tracing::debug!(left = connections.len(), "admin connections cut off");
    }
    Ok(())
}

async fn exchange(stream: TcpStream, admin: Admin) {
    let service = service_fn(|request| {
        let response = answer(&admin, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(EXCHANGE_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(EXCHANGE_TIMEOUT, connection).await {
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
