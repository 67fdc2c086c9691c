//! `invoke`: one request through a frontend, its answer on standard output as it comes.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncRead;
use tokio_util::io::ReaderStream;

use crate::args::Invoke;
use crate::client::{self, Body, ClientError};
use crate::error::Error;
use crate::output::Output;

pub(crate) async fn run(args: Invoke, output: &mut Output<'_>) -> Result<(), Error> {
    let body = match args.data.as_deref() {
        None => Empty::new().map_err(|never| match never {}).boxed(),
        Some("-") => streamed(tokio::io::stdin()),
        Some(data) => match data.strip_prefix('@') {
            Some(path) => file(PathBuf::from(path)).await?,
            None => Full::new(Bytes::from(data.to_owned()))
                .map_err(|never| match never {})
                .boxed(),
        },
    };
    let default = if args.data.is_some() {
        Method::POST
    } else {
        Method::GET
    };
    let mut headers = HeaderMap::new();
    if args.data.is_some() {
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
    }
    headers.extend(args.header);
    let slash = if args.path.is_empty() || args.path.starts_with(['/', '?']) {
        ""
    } else {
        "/"
    };
    let path = format!("/invoke/{}{slash}{}", args.id, args.path);
    let (response, address) = client::send(
        &args.frontend,
        &path,
        args.method.unwrap_or(default),
        headers,
        body,
    )
    .await?;
    let response = client::refusal(response).await?;
    let status = response.status();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| ClientError::Exchange {
            address: address.clone(),
            source,
        })?;
        if let Some(data) = frame.data_ref() {
            output.bytes(data)?;
        }
    }
    if status.is_client_error() || status.is_server_error() {
        return Err(Error::FunctionFailed(status));
    }
    Ok(())
}

async fn file(path: PathBuf) -> Result<Body, Error> {
    match tokio::fs::File::open(&path).await {
        Ok(file) => Ok(streamed(file)),
        Err(source) => Err(Error::Read { path, source }),
    }
}

/// Sent as it is read, whatever its size.
fn streamed(reader: impl AsyncRead + Send + Sync + 'static) -> Body {
    StreamBody::new(ReaderStream::new(reader).map_ok(Frame::data)).boxed()
}
