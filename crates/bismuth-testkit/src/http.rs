//! A plain HTTP/1.1 client: one connection per request, no pool, retry or redirect.
//!
//! Tests of a proxy must see what the wire does, so there is no pool, no retry and no redirect here.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// What requests carry.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Nothing that a test asks for takes longer to begin its answer; tests of timeouts set shorter ones.
const HEAD_BOUND: Duration = Duration::from_secs(60);

/// A body that is known whole.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// Sends a request to the host of its URI and returns the answer as soon as its head is there.
///
/// The `Host` header is the URI's authority unless the request has one. Upgrades work.
/// Fails when the connection fails, or no head comes within a minute.
pub async fn send(mut request: Request<Body>) -> Result<Response<Incoming>> {
    let uri = request.uri().clone();
    let authority = uri
        .authority()
        .with_context(|| format!("{uri} names no host"))?
        .clone();
    if !request.headers().contains_key(header::HOST) {
        request
            .headers_mut()
            .insert(header::HOST, authority.as_str().parse()?);
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().with_context(|| format!("the path of {uri}"))?;

    let exchange = async {
        let address = (authority.host(), authority.port_u16().unwrap_or(80));
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("connect to {authority}"))?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange: the sender is dropped below, the body keeps the connection until it is read.
        tokio::spawn(connection.with_upgrades());
        sender
            .send_request(request)
            .await
            .with_context(|| format!("send a request to {uri}"))
    };
    tokio::time::timeout(HEAD_BOUND, exchange)
        .await
        .with_context(|| format!("{uri} is silent"))?
}

/// Sends a request and reads the whole answer. Fails also when its body breaks off.
pub async fn send_whole(request: Request<Body>) -> Result<Response<Bytes>> {
    let (head, body) = send(request).await?.into_parts();
    let body = body
        .collect()
        .await
        .context("read the answer's body")?
        .to_bytes();
    Ok(Response::from_parts(head, body))
}

/// `GET`, and the whole answer.
pub async fn get(url: &str) -> Result<Response<Bytes>> {
    send_whole(Request::get(url).body(full(Bytes::new()))?).await
}

/// `POST` of `body`, and the whole answer.
pub async fn post(url: &str, body: impl Into<Bytes>) -> Result<Response<Bytes>> {
    send_whole(Request::post(url).body(full(body))?).await
}
