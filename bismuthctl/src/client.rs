//! HTTP client for a frontend or the API.

use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use bismuth_http::problem::ERROR_HEADER;

use crate::error::Error;

/// A daemon on a network of ours; more is a wrong address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Our problems are small.
const PROBLEM_BYTES: usize = 64 * 1024;

/// What is sent.
pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

/// Why there was no exchange.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not the URL of a daemon of ours.
    #[error("{url} is not an http URL with a host")]
    Url { url: Uri },
    #[error("{path:?} cannot be asked for")]
    Path { path: String, source: http::Error },
    #[error("connect to {address}")]
    Connect {
        address: String,
        source: std::io::Error,
    },
    /// Nobody answers there, not even with a refusal.
    #[error("connect to {address}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    Silent { address: String },
    #[error("exchange with {address}")]
    Exchange {
        address: String,
        source: hyper::Error,
    },
}

/// Sends one request to `base` and returns the answer as soon as its head is there.
pub(crate) async fn send(
    base: &Uri,
    path: &str,
    method: http::Method,
    headers: HeaderMap,
    body: Body,
) -> Result<(Response<Incoming>, String), ClientError> {
    let (Some(authority), true) = (
        base.authority(),
        base.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP),
    ) else {
        return Err(ClientError::Url { url: base.clone() });
    };
    let (host, port) = (authority.host(), authority.port_u16().unwrap_or(80));
    let address = format!("{host}:{port}");
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .body(body)
        .map_err(|source| ClientError::Path {
            path: path.to_owned(),
            source,
        })?;
    if let Ok(value) = HeaderValue::from_str(authority.as_str()) {
        request.headers_mut().insert(HOST, value);
    }
    request.headers_mut().extend(headers);
    // An IPv6 address stands in brackets in a URL and without them for the resolver.
    let target = (host.trim_start_matches('[').trim_end_matches(']'), port);
    let stream = match timeout(CONNECT_TIMEOUT, TcpStream::connect(target)).await {
        Ok(connected) => connected.map_err(|source| ClientError::Connect {
            address: address.clone(),
            source,
        })?,
        Err(_) => return Err(ClientError::Silent { address }),
    };
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the exchange, or with this process.
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    // The frontend bounds it: one number in the function's definition, obeyed by every hop.
    match exchange.await {
        Ok(response) => Ok((response, address)),
        Err(source) => Err(ClientError::Exchange { address, source }),
    }
}

/// What of a problem is told.
#[derive(Deserialize)]
struct Problem {
    component: String,
    detail: String,
}

/// The error of ours that an answer carries, if it is one. A function's own error is none: the header
/// is taken off whatever functions answer.
pub(crate) async fn refusal(response: Response<Incoming>) -> Result<Response<Incoming>, Error> {
    let status = response.status();
    let Some(code) = response
        .headers()
        .get(ERROR_HEADER)
        .map(|code| String::from_utf8_lossy(code.as_bytes()).into_owned())
    else {
        return Ok(response);
    };
    let body = Limited::new(response.into_body(), PROBLEM_BYTES)
        .collect()
        .await;
    let problem = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
    let (component, detail) = match problem {
        Some(problem) => (problem.component, problem.detail),
        None => ("bismuth".to_owned(), format!("{status} {code}")),
    };
    Err(Error::Refused {
        component,
        detail,
        status,
    })
}
