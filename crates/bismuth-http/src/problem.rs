//! Error responses made by Bismuth itself, as `application/problem+json` (RFC 9457).
//!
//! A client can always tell the function's 500 from ours: ours carries [`ERROR_HEADER`], which is
//! stripped from whatever a function answers ([`crate::headers::strip_reserved`]).

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use serde::Serialize;

use crate::body::Body;

/// Names the error's code in a header, so that the next hop need not parse the body.
pub const ERROR_HEADER: HeaderName = HeaderName::from_static("x-bismuth-error");

/// The code a node answers with when it does not serve the container named: the request was not
/// executed, and may be tried elsewhere whatever its method.
pub const UNKNOWN_CONTAINER: &str = "unknown_container";

/// One error of ours, as the client sees it.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// A stable word for programs, in snake case (`no_backend`).
    pub code: &'static str,
    /// Which program says so (`bismuthfe`).
    pub component: &'static str,
    /// One sentence for people; it names the act and the object.
    pub detail: String,
    /// The request's id, when it is known.
    pub request_id: Option<HeaderValue>,
    /// Whether the same request may succeed if it is sent again.
    pub retryable: bool,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u32>,
}

/// The JSON form. `type` is left out, which RFC 9457 reads as `about:blank`.
#[derive(Serialize)]
struct Document<'a> {
    title: &'a str,
    status: u16,
    code: &'a str,
    component: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    retryable: bool,
}

impl Problem {
    /// A problem that is not worth trying again, until [`Problem::retryable`] says otherwise.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        component: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Problem {
            status,
            code,
            component,
            detail: detail.into(),
            request_id: None,
            retryable: false,
            retry_after: None,
        }
    }

    /// Says that the same request may succeed later.
    pub fn retryable(mut self) -> Self {
        self.retryable = true;
        self
    }

    /// Says that the same request may succeed after this many seconds.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retryable = true;
        self.retry_after = Some(seconds);
        self
    }

    /// Names the request.
    pub fn request_id(mut self, id: HeaderValue) -> Self {
        self.request_id = Some(id);
        self
    }

    /// The response that carries it.
    pub fn into_response(self) -> Response<Body> {
        let document = Document {
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            code: self.code,
            component: self.component,
            detail: &self.detail,
            request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()),
            retryable: self.retryable,
        };
        // Strings, integers and a bool: serialising them cannot fail.
        let json = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = Response::new(Body::full(Bytes::from(json)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ERROR_HEADER, HeaderValue::from_static(self.code));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(id) = self.request_id {
            headers.insert(crate::trace::REQUEST_ID, id);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn a_problem_says_everything_in_the_body_and_its_code_in_a_header() {
        let response = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_backend",
            "bismuthfe",
            "function x has no backend",
        )
        .retry_after(1)
        .request_id(HeaderValue::from_static("abc"))
        .into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[ERROR_HEADER], "no_backend");
        assert_eq!(response.headers()[RETRY_AFTER], "1");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()["x-request-id"], "abc");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "title": "Service Unavailable", "status": 503, "code": "no_backend",
                "component": "bismuthfe", "detail": "function x has no backend",
                "request_id": "abc", "retryable": true
            })
        );
    }
}
