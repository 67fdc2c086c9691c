//! Reads a request's body, bounded in length and time.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::problem::Problem;

/// A definition is at most 60 KiB, a secret 64; this is a slow modem's time for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How far a body that is too large is read all the same: closing before it was read resets the connection, and with it
/// the answer that says so (RFC 9112 section 9.6).
const READ_ON: usize = 16 << 20;

/// The whole body. More than `most` bytes are refused with `code`, and `what` they would have been.
pub(crate) async fn read_body(
    body: Body,
    most: usize,
    what: &str,
    code: &'static str,
) -> Result<Bytes, Problem> {
    match timeout(BODY_TIMEOUT, collect(body, most)).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => {
            let detail = format!("the {what} has more than {most} bytes");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail).field("."))
        }
        Ok(Err(error)) => {
            let detail = format!("the body broke off: {error}");
            Err(Problem::new(StatusCode::BAD_REQUEST, "body_broken", detail))
        }
        Err(_) => {
            let detail = format!(
                "the body did not arrive within {} s",
                BODY_TIMEOUT.as_secs()
            );
            Err(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                detail,
            ))
        }
    }
}

async fn collect(mut body: Body, most: usize) -> Result<Option<Bytes>, axum::Error> {
    let (mut collected, mut length) = (BytesMut::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue; // trailers say nothing here
        };
        length += data.len();
        if length > READ_ON {
            break;
        }
        if length <= most {
            collected.extend_from_slice(&data);
        }
    }
    Ok((length <= most).then(|| collected.freeze()))
}
