//! The admin endpoints `/healthz`, `/readyz` and `/metrics`.
//!
//! ```text
//!   GET /healthz  200 "ok"                       the process answers
//!   GET /readyz   200 "ready"                    every condition is met
//!                 503 "not ready" + a line each  name: why not
//!   GET /metrics  200 OpenMetrics text           the binary's registry, then the process's own
//! ```
//!
//! A binary with an HTTP surface mounts it there ([`Admin::respond`]); [`serve`] gives it a
//! listener of its own.

mod process;
mod readiness;
mod server;

use std::sync::Arc;

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Bytes,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    registry::Registry,
};

use crate::Shutdown;
use process::ProcessMetrics;
pub use readiness::Condition;
use readiness::Readiness;
pub use server::serve;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// From the OpenMetrics 1.0 specification, "Overall structure".
const OPENMETRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What the admin endpoints of a process answer. Clones are the same.
#[derive(Clone, Debug)]
pub struct Admin {
    shared: Arc<Shared>,
    shutdown: Option<Shutdown>,
}

#[derive(Debug)]
struct Shared {
    metrics: Registry,
    /// Apart, because `metrics` may have a prefix, and dashboards know these names without one.
    process: Registry,
    readiness: Readiness,
}

impl Admin {
    /// Serves `metrics`, and the process's own (`process_*`) beside them. Ready until a
    /// condition is added.
    #[must_use]
    pub fn new(metrics: Registry) -> Self {
        let mut process = Registry::default();
        process.register_collector(Box::new(ProcessMetrics::now()));
        let shared = Shared {
            metrics,
            process,
            readiness: Readiness::default(),
        };
        Self {
            shared: Arc::new(shared),
            shutdown: None,
        }
    }

    /// Not ready any more as soon as `shutdown` is triggered, so that balancers look elsewhere
    /// while the process drains.
    #[must_use]
    pub fn unready_on(mut self, shutdown: &Shutdown) -> Self {
        self.shutdown = Some(shutdown.clone());
        self
    }

    /// Adds a condition for being ready. It is unmet ("not yet") until its holder says otherwise.
    #[must_use]
    pub fn condition(&self, name: impl Into<String>) -> Condition {
        self.shared.readiness.add(name.into())
    }

    /// The names of the unmet conditions, each with its reason; ready when empty.
    #[must_use]
    pub fn unmet(&self) -> Vec<(String, String)> {
        let mut unmet = self.shared.readiness.unmet();
        if self.shutdown.as_ref().is_some_and(Shutdown::is_triggered) {
            unmet.push(("shutdown".to_owned(), "the process is ending".to_owned()));
        }
        unmet
    }

    /// The answer if the request is for one of the three paths, else `None`.
    #[must_use]
    pub fn respond<B>(&self, request: &Request<B>) -> Option<Response<Full<Bytes>>> {
        let page = match request.uri().path() {
            "/healthz" => Self::health,
            "/readyz" => Self::ready,
            "/metrics" => Self::metrics,
            _ => return None,
        };
        // hyper leaves the body out of an answer to HEAD by itself.
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some(page(self));
        }
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refusal.headers_mut().insert(ALLOW, allowed);
        Some(refusal)
    }

    fn health(&self) -> Response<Full<Bytes>> {
        text(StatusCode::OK, "ok\n")
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let unmet = self.unmet();
        if unmet.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        let lines = unmet
            .iter()
            .map(|(name, reason)| format!("{name}: {reason}\n"));
        let body = std::iter::once("not ready\n".to_owned()).chain(lines);
        text(StatusCode::SERVICE_UNAVAILABLE, body.collect::<String>())
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut page = String::new();
        let encoded = encode_registry(&mut page, &self.shared.metrics)
            .and_then(|()| encode_registry(&mut page, &self.shared.process))
            .and_then(|()| encode_eof(&mut page));
        if encoded.is_err() {
            let message = "a metric could not be encoded\n";
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        }
        let mut response = text(StatusCode::OK, page);
        response.headers_mut().insert(CONTENT_TYPE, OPENMETRICS);
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, TEXT);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
