//! Error responses of the HTTP APIs, as problems (RFC 9457).

use std::time::Duration;

use bismuth_base::{LogThrottle, chain};
use bismuth_http::{Body, Problem};
use bismuth_store::KeyError;
use bismuth_store::blobs::PutError;
use bismuth_store::records::{EngineError, Refused};
use http::header::{
    ACCEPT_ENCODING, ALLOW, CONTENT_RANGE, ETAG, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use tracing::{error, warn};

use super::body_error::RequestBodyError;
use super::etag::etag_value;

/// Who says so.
pub(crate) const COMPONENT: &str = "svcprovider";

/// A problem, and a field that belongs to its status.
#[derive(Debug)]
pub(crate) struct Refusal {
    problem: Box<Problem>,
    field: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            problem: Box::new(Problem::new(status, code, COMPONENT, detail)),
            field: None,
        }
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.field = Some((name, value));
        self
    }

    /// Says that it may work after so many seconds.
    fn again_after(mut self, seconds: u32) -> Self {
        *self.problem = self.problem.retry_after(seconds);
        self
    }

    /// Says which part of a request it is about.
    pub(crate) fn about(mut self, what: &str) -> Self {
        self.problem.detail = format!("{what}: {}", self.problem.detail);
        self
    }

    /// A stable word for it.
    pub(crate) fn code(&self) -> &'static str {
        self.problem.code
    }

    pub(crate) fn into_response(self, request_id: HeaderValue) -> Response<Body> {
        let mut response = self.problem.request_id(request_id).into_response();
        if let Some((name, value)) = self.field {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

pub(super) fn bad(code: &'static str, detail: impl Into<String>) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, code, detail)
}

pub(crate) fn forwarded(name: &str) -> Refusal {
    let detail = format!("the request carries {name}, so it is not the function's own");
    Refusal::new(StatusCode::FORBIDDEN, "forwarded_request", detail)
}

pub(crate) fn misdirected() -> Refusal {
    let detail = "the Host of a request to the services is 169.254.169.254:9000";
    Refusal::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", detail)
}

pub(crate) fn unauthorized() -> Refusal {
    let detail = "the request does not carry the token: Authorization: Bearer $BISMUTH_AUTH";
    let challenge = HeaderValue::from_static("Bearer realm=\"bismuth\"");
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(WWW_AUTHENTICATE, challenge)
}

pub(crate) fn too_many(rate: u64, wait: Duration) -> Refusal {
    let detail = format!("the function's group may make {rate} requests per second");
    let seconds = u32::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u32::MAX);
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail).again_after(seconds.max(1))
}

pub(crate) fn unknown_path() -> Refusal {
    let detail = "there are /kv/v1/, /blob/v1/ and /secrets/v1/";
    Refusal::new(StatusCode::NOT_FOUND, "unknown_path", detail)
}

pub(crate) fn method(allowed: &'static str) -> Refusal {
    let detail = format!("this takes {allowed}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
        .with(ALLOW, HeaderValue::from_static(allowed))
}

pub(crate) fn not_found(what: &str) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        "not_found",
        format!("there is no such {what}"),
    )
}

pub(crate) fn exists() -> Refusal {
    let detail = "there is such a blob already; PUT replaces it";
    Refusal::new(StatusCode::CONFLICT, "blob_exists", detail)
}

pub(crate) fn precondition() -> Refusal {
    let detail = "the condition does not hold";
    Refusal::new(
        StatusCode::PRECONDITION_FAILED,
        "precondition_failed",
        detail,
    )
}

pub(crate) fn too_large(limit: u64) -> Refusal {
    let detail = format!("more than {limit} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
}

pub(crate) fn no_such_range(size: u64) -> Refusal {
    let range = HeaderValue::try_from(format!("bytes */{size}"));
    let detail = format!("the blob has {size} bytes, and none of that range");
    let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, "no_such_range", detail);
    refusal.with(
        CONTENT_RANGE,
        range.unwrap_or(HeaderValue::from_static("bytes */0")),
    )
}

pub(crate) fn bad_range() -> Refusal {
    bad(
        "bad_range",
        "Range is not bytes=first-last, bytes=first- or bytes=-count",
    )
}

pub(crate) fn bad_condition(what: &str) -> Refusal {
    let detail = format!("{what} is not one condition: * or quoted entity tags");
    bad("bad_condition", detail)
}

pub(crate) fn bad_digest(name: &str) -> Refusal {
    bad(
        "bad_digest",
        format!("{name} is not sha-256=:base64:, or says two things"),
    )
}

pub(crate) fn bad_query(detail: impl Into<String>) -> Refusal {
    bad("bad_query", detail)
}

pub(crate) fn bad_content_type() -> Refusal {
    bad(
        "bad_content_type",
        "Content-Type is not one media type of at most 256 bytes",
    )
}

pub(crate) fn coded() -> Refusal {
    let detail = "Content-Encoding names a coding, which would be lost: send the bytes as they are, and say what they are in Content-Type";
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Refusal::new(status, "content_encoding", detail)
        .with(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

pub(crate) fn digest_mismatch() -> Refusal {
    let detail = "the bytes do not have the digest that was given";
    bad("digest_mismatch", detail)
}

pub(crate) fn partial() -> Refusal {
    let detail = "Content-Range is not taken: what is written is written as a whole";
    bad("content_range", detail)
}

pub(crate) fn bad_json(detail: impl Into<String>) -> Refusal {
    bad("bad_json", detail)
}

impl From<RequestBodyError> for Refusal {
    fn from(broken: RequestBodyError) -> Self {
        let detail = broken.to_string();
        match broken {
            RequestBodyError::CutOff(_) => bad("body_cut_off", detail),
            RequestBodyError::Silent | RequestBodyError::Slow => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
            }
        }
    }
}

/// A write was not made; `charge` is what it would have counted for.
pub(crate) fn refused(refused: &Refused, what: &str, charge: u64) -> Refusal {
    let (status, code) = match refused {
        Refused::NotFound => return not_found(what),
        Refused::Condition { current } => {
            let refusal = precondition();
            return match current {
                Some(current) => refusal.with(ETAG, etag_value(*current)),
                None => refusal,
            };
        }
        Refused::NotANumber => (StatusCode::CONFLICT, "not_a_number"),
        Refused::OutOfRange => (StatusCode::CONFLICT, "out_of_range"),
        // It would not fit were nothing else there.
        Refused::Bytes { limit, .. } if charge > *limit => {
            (StatusCode::PAYLOAD_TOO_LARGE, "too_large")
        }
        Refused::Count { limit: 0 } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        Refused::Bytes { .. } | Refused::Count { .. } => {
            (StatusCode::INSUFFICIENT_STORAGE, "quota_exceeded")
        }
    };
    let detail = match refused {
        Refused::Count { limit } => format!("{limit} {what}s are allowed, and used"),
        Refused::Bytes { needed, limit } => format!(
            "{needed} bytes would be used, with the names of all {what}s; {limit} are allowed"
        ),
        refused => refused.to_string(),
    };
    Refusal::new(status, code, detail)
}

/// A write was refused, or an engine did not make it.
pub(crate) fn not_written(error: EngineError, what: &str, charge: u64) -> Refusal {
    match error.refusal() {
        Some(why) => refused(why, what, charge),
        None => error.into(),
    }
}

/// Each of what can be wrong with an engine is logged for itself, whoever asked.
static AWAY: LogThrottle = LogThrottle::new();
static FULL: LogThrottle = LogThrottle::new();
static BROKEN: LogThrottle = LogThrottle::new();

/// An engine did not do what it should.
impl From<EngineError> for Refusal {
    fn from(engine: EngineError) -> Self {
        let said = engine.to_string();
        match engine {
            EngineError::Unavailable { .. } => {
                if let Some(left_out) = AWAY.admit() {
                    warn!(error = said, left_out, "an engine is away");
                }
                let detail = "the store does not answer; whether a write was made is unknown";
                let status = StatusCode::SERVICE_UNAVAILABLE;
                Self::new(status, "store_unavailable", detail).again_after(1)
            }
            EngineError::Full { .. } => {
                if let Some(left_out) = FULL.admit() {
                    warn!(error = said, left_out, "a disk is full");
                }
                let detail = "the disk of the store is full; nothing was changed";
                let status = StatusCode::INSUFFICIENT_STORAGE;
                Self::new(status, "disk_full", detail).again_after(10)
            }
            EngineError::Busy { of_group: true, .. } => group_takes_too_much(),
            EngineError::Busy { .. } => all_take_too_much(),
            EngineError::Slow { .. } => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", said)
            }
            // Refusals are answered where it is known what was asked.
            EngineError::Broken { .. }
            | EngineError::Refused { .. }
            | EngineError::TooLarge { .. } => {
                if let Some(left_out) = BROKEN.admit() {
                    error!(error = said, left_out, "an engine is broken");
                }
                let detail = "the store is broken; its operator finds more in the log";
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "store_broken", detail)
            }
        }
    }
}

/// A group's requests and answers have all the memory that it may have.
pub(crate) fn group_takes_too_much() -> Refusal {
    let detail =
        "the requests and answers of this group that are on their way are too large together";
    let status = StatusCode::TOO_MANY_REQUESTS;
    Refusal::new(status, "too_much_at_once", detail).again_after(1)
}

/// All groups have all the memory that there is.
pub(crate) fn all_take_too_much() -> Refusal {
    let detail = "the requests and answers that are on their way are too large together";
    let status = StatusCode::SERVICE_UNAVAILABLE;
    Refusal::new(status, "too_much_at_once", detail).again_after(1)
}

/// A blob was not stored.
pub(crate) fn not_stored(error: PutError, charge: u64) -> Refusal {
    match error {
        PutError::Body(source) => match source.downcast::<RequestBodyError>() {
            Ok(broken) => (*broken).into(),
            Err(source) => bad("body_cut_off", chain(source.as_ref())),
        },
        PutError::TooLarge { limit } => too_large(limit),
        PutError::Digest => digest_mismatch(),
        PutError::Refused(why) => refused(&why, "blob", charge),
        PutError::Abandoned => {
            let detail = "the upload paused for too long";
            Refusal::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail)
        }
        PutError::Engine(engine) => engine.into(),
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        bad("bad_key", error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tracing::span;

    use super::*;

    #[test]
    fn busy_is_429_for_a_group_and_503_for_all_and_slow_is_408() {
        let busy = |of_group| EngineError::Busy {
            engine: "S3",
            of_group,
        };
        let bound = Duration::from_secs(120);
        for (error, status, code) in [
            (busy(true), 429, "too_much_at_once"),
            (busy(false), 503, "too_much_at_once"),
            (EngineError::Slow { bound }, 408, "body_timeout"),
        ] {
            let refusal = Refusal::from(error);
            assert_eq!(
                (refusal.problem.status.as_u16(), refusal.code()),
                (status, code)
            );
        }
    }

    /// Counts what is logged.
    #[derive(Default)]
    struct Log(Arc<AtomicUsize>);

    impl tracing::Subscriber for Log {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_thousand_engine_errors_are_logged_once_per_kind() {
        let log = Log::default();
        let lines = Arc::clone(&log.0);
        let engine = "the fake";
        let reason = "asleep".to_owned();
        tracing::subscriber::with_default(log, || {
            for error in [
                EngineError::Unavailable {
                    engine,
                    reason: reason.clone(),
                },
                EngineError::Full { engine },
                EngineError::Broken { engine, reason },
            ] {
                for _ in 0..1000 {
                    let _refusal = Refusal::from(error.clone());
                }
            }
        });
        // One of each kind; twice if it takes that long.
        let lines = lines.load(Ordering::Relaxed);
        assert!((1..=6).contains(&lines), "{lines} lines");
    }
}
