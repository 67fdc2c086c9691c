//! Which call does what, and what all calls have in common.
//!
//! ```text
//!  request ─► id ─► from a web page? ─► route ─► handler ─► Failure? rendered ─► counted ─► answer
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use bismuth_daemon::Shutdown;
use bismuth_http::trace;
use bismuth_registry::Registry;
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::door::Door;
use crate::failure::Failure;
use crate::logs::LogClient;
use crate::metrics::Metrics;
use crate::placing::Placing;
use crate::rollout::Rollouts;
use crate::services::Services;
use crate::{functions, logs, nodes, openapi, secrets};

/// A definition is at most 60 KiB, a secret 64; this is a slow modem's time for it.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How far a body that is too large is read all the same: closing before it was read resets the connection, and with it
/// the answer that says so (RFC 9112 section 9.6).
const READ_ON: usize = 16 << 20;

/// What the handlers work with. Clones are the same.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) registry: Registry,
    pub(crate) placing: Arc<Placing>,
    pub(crate) rollouts: Rollouts,
    pub(crate) logs: LogClient,
    pub(crate) services: Services,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    /// Who is not let in.
    pub(crate) door: Arc<Door>,
    /// How long ZooKeeper may take over one call.
    pub(crate) answer_within: Duration,
}

impl Api {
    /// Reads something from the registry, within the bound.
    pub(crate) async fn ask<T>(
        &self,
        act: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout(self.answer_within, work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::unavailable(self.silence(act))),
        }
    }

    /// Changes something in the registry, within the bound.
    pub(crate) async fn change<T>(
        &self,
        act: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout(self.answer_within, work).await {
            Ok(result) => result,
            Err(_) => Err(Failure::unknown_outcome(format!(
                "{}; the change was made or was not: look before you try again",
                self.silence(act)
            ))),
        }
    }

    fn silence(&self, act: &str) -> String {
        format!(
            "{act}: ZooKeeper did not answer within {} ms",
            self.answer_within.as_millis()
        )
    }
}

pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/function", get(functions::list).post(functions::create))
        .route(
            "/function/{id}",
            get(functions::get)
                .put(functions::replace)
                .delete(functions::delete),
        )
        .route("/function/{id}/logs", get(logs::get))
        .route("/node", get(nodes::list))
        .route("/node/{ip}", get(nodes::get))
        .route("/group/{group}/secret", get(secrets::list))
        .route(
            "/group/{group}/secret/{name}",
            put(secrets::set).delete(secrets::delete),
        )
        .route("/group/{group}/secret/{name}/rotate", post(secrets::rotate))
        .route("/openapi.json", get(openapi::get))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(api.clone(), around))
        .with_state(api)
}

/// What happens around every call.
async fn around(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = trace::request_id(request.headers_mut());
    let method = request.method().clone();
    // The pattern and not the path, which has as many values as there are ids.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unknown".to_owned(), |path| path.as_str().to_owned());
    let mut response = match api.door.refuse(&method, request.headers()) {
        Some(failure) => failure.render(&id),
        None => next.run(request).await,
    };
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        log(&failure, &method, &route, &id);
        let rendered = failure.render(&id);
        // Allow of 405 was set by the router.
        let mut headers = std::mem::take(response.headers_mut());
        headers.remove(http::header::CONTENT_LENGTH);
        response = rendered;
        headers.extend(std::mem::take(response.headers_mut()));
        *response.headers_mut() = headers;
    }
    response.headers_mut().insert(trace::REQUEST_ID, id);
    api.metrics
        .answered(&method, &route, response.status(), begun.elapsed());
    response
}

fn log(failure: &Failure, method: &Method, route: &str, id: &http::HeaderValue) {
    let (code, detail) = (&*failure.code, failure.detail.as_str());
    if failure.status.is_server_error() {
        tracing::warn!(%method, route, request_id = ?id, code, detail, "not done");
    } else {
        tracing::debug!(%method, route, request_id = ?id, code, detail, "refused");
    }
}

/// The whole body, or `None` if it has more than `most` bytes.
pub(crate) async fn read_body(body: Body, most: usize) -> Result<Option<Bytes>, Failure> {
    match timeout(BODY_TIMEOUT, collect(body, most)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            let detail = format!("the body broke off: {error}");
            Err(Failure::new(StatusCode::BAD_REQUEST, "body_broken", detail))
        }
        Err(_) => {
            let detail = format!(
                "the body did not arrive within {} s",
                BODY_TIMEOUT.as_secs()
            );
            Err(Failure::new(
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

async fn unknown_path(request: Request) -> Failure {
    let detail = format!(
        "there is no {}; /openapi.json says what there is",
        request.uri().path()
    );
    Failure::new(StatusCode::NOT_FOUND, "unknown_path", detail)
}

async fn wrong_method(request: Request) -> Failure {
    let detail = format!("{} has no {}", request.uri().path(), request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}
