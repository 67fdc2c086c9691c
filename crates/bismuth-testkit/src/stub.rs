//! A stub HTTP server: a test gives its answers.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::{Body, full, send_whole};

/// A server on a loopback port. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Stub {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Stub {
    /// Answers every request, once it is there whole, with what `answer` makes of it. A body that breaks off closes the connection.
    /// Fails when there is no port.
    pub async fn start<A>(
        answer: impl Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
    ) -> Result<Self>
    where
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("listen on loopback")?;
        Ok(Self {
            address: listener.local_addr()?,
            serving: tokio::spawn(serve(listener, answer)),
        })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve<A>(
    listener: TcpListener,
    answer: impl Fn(Request<Bytes>) -> A + Clone + Send + Sync + 'static,
) where
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let answer = answer.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok::<_, hyper::Error>(answer(Request::from_parts(head, body)).await)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        // It fails when a client is gone, or when an answer breaks off because the test says so.
        connections.spawn(async move { drop(connection.await) });
    }
}

/// Sends a request that a [`Stub`] was given to the server at `url`, and returns its answer.
pub async fn forward_request(url: &str, request: Request<Bytes>) -> Result<Response<Bytes>> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    head.uri = format!("{url}{path}").parse()?;
    // They are those of the connection that it came on.
    for name in [header::HOST, header::TRANSFER_ENCODING] {
        head.headers.remove(name);
    }
    send_whole(Request::from_parts(head, full(body))).await
}
