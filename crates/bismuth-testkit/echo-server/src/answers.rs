//! Responses that several paths share, and numbers in query strings.

use std::convert::Infallible;
use std::str::FromStr;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

pub(crate) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

pub(crate) fn text(content: impl Into<Bytes>) -> Response<Body> {
    Response::new(full(content))
}

pub(crate) fn with_status(status: StatusCode, content: impl Into<Bytes>) -> Response<Body> {
    let mut response = text(content);
    *response.status_mut() = status;
    response
}

pub(crate) fn json_text(value: &Value) -> Response<Body> {
    let mut response = text(value.to_string());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

/// The value of `name` in a query string; zero (or the type's default) when it is not there.
pub(crate) fn number<T: FromStr + Default>(query: &str, name: &str) -> T {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or_default()
}
