//! Streamed response bodies, and request bodies that are counted.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::answers::{Body, number};

/// One permit for each event that may go.
static TRIGGER: Semaphore = Semaphore::const_new(0);

/// Large enough that framing costs nothing, small enough that many streams fit into a small container.
const CHUNK: usize = 64 * 1024;

/// Before a connection is broken on purpose, so that what was written has left.
const FLUSH: Duration = Duration::from_millis(20);

/// Lets the next event go, now or when somebody waits for it.
pub(crate) fn trigger() {
    TRIGGER.add_permits(1);
}

/// `n` server-sent events, each when [`trigger`] was called once more.
pub(crate) fn events(n: u64) -> Response<Body> {
    let events = stream::iter(0..n).then(|number| async move {
        // The semaphore is never closed.
        if let Ok(permit) = TRIGGER.acquire().await {
            permit.forget();
        }
        Ok(Frame::data(Bytes::from(format!(
            "id: {number}\ndata: event {number}\n\n"
        ))))
    });
    let mut response = streamed(events);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// `n` bytes with a `Content-Length`, or, when told to stall or abort after them, without.
pub(crate) fn bytes(n: u64, query: &str) -> Response<Body> {
    let stall = number::<u8>(query, "stall") == 1;
    let abort = number::<u8>(query, "abort") == 1;
    let chunk = Bytes::from(vec![b'x'; CHUNK]);
    let whole = n / CHUNK as u64;
    let rest = usize::try_from(n % CHUNK as u64).unwrap_or(0); // below CHUNK
    let data = stream::iter(0..=whole).map(move |index| {
        let piece = if index < whole {
            chunk.clone()
        } else {
            chunk.slice(..rest)
        };
        Ok(Frame::data(piece))
    });
    let end = stream::once(async move {
        if stall {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(FLUSH).await;
        Err(io::Error::other("told to abort"))
    });
    let end = stream::iter((stall || abort).then_some(end)).flatten();
    let mut response = streamed(data.chain(end));
    if !stall && !abort {
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from(n));
    }
    response
}

/// Reads a body to its end and says how long it was and what its CRC-32 is.
pub(crate) async fn count(mut body: Incoming) -> Result<(u64, u32), io::Error> {
    let mut total = 0;
    let mut checksum = crc32fast::Hasher::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(io::Error::other)?;
        if let Some(data) = frame.data_ref() {
            total += data.len() as u64;
            checksum.update(data);
        }
    }
    Ok((total, checksum.finalize()))
}

/// The request's trailers as JSON, then a trailer with the length of the request's body.
pub(crate) async fn trailers(body: Incoming) -> Result<Response<Body>, io::Error> {
    let collected = body.collect().await.map_err(io::Error::other)?;
    let empty = HeaderMap::new();
    let received = collected.trailers().unwrap_or(&empty).iter();
    let received: Vec<_> = received
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let data = Frame::data(Bytes::from(json!(received).to_string()));
    let mut own = HeaderMap::new();
    own.insert(
        "x-body-bytes",
        HeaderValue::from(collected.to_bytes().len()),
    );
    let mut response = streamed(stream::iter([Ok(data), Ok(Frame::trailers(own))]));
    let headers = response.headers_mut();
    headers.insert(header::TRAILER, HeaderValue::from_static("x-body-bytes"));
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    Ok(response)
}

fn streamed(
    frames: impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static,
) -> Response<Body> {
    Response::new(StreamBody::new(frames).boxed_unsync())
}
