//! Serves a hyper service on one connection of an [`AcceptLoop`](crate::AcceptLoop).

use std::error::Error;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use crate::FinishSignal;

/// How a connection is served.
#[derive(Clone, Copy, Debug)]
pub struct HttpOptions {
    /// How long a request head may take, and how long a kept connection may be idle before the next one.
    pub head_timeout: Duration,
    /// Whether more than one request is answered.
    pub keep_alive: bool,
}

/// Answers requests until the client leaves, a bound passes, or `finish` says so: then the answer in flight is the last.
///
/// # Errors
/// Why the connection broke, for the log.
pub async fn serve_http<S, B>(
    stream: TcpStream,
    options: HttpOptions,
    finish: FinishSignal,
    service: S,
) -> Result<(), hyper::Error>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(options.head_timeout)
        .keep_alive(options.keep_alive)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = finish.requested() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
