//! The routes, and the middleware around all of them.
//!
//! ```text
//!  request ─► id ─► from a web page? ─► route ─► handler ─► problem? rendered ─► counted ─► answer
//! ```

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::{Extension, Router};
use bismuth_http::trace;
use http::{Method, StatusCode};
use serde_json::Value;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::openapi::Document;
use crate::problem::Problem;
use crate::state::AppState;
use crate::{functions, logs, nodes, openapi, revisions, secrets};

/// Every route with its documentation: method and path are said once, by the handler's `#[utoipa::path]`.
fn routes() -> (Router<AppState>, OpenApi) {
    OpenApiRouter::new()
        .routes(routes!(functions::list, functions::create))
        .routes(routes!(
            functions::get,
            functions::replace,
            functions::delete
        ))
        .routes(routes!(revisions::list))
        .routes(routes!(revisions::roll_back))
        .routes(routes!(logs::get))
        .routes(routes!(nodes::list))
        .routes(routes!(nodes::get))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::delete))
        .routes(routes!(secrets::rotate))
        .routes(routes!(openapi::get))
        .split_for_parts()
}

/// The OpenAPI document, as `/openapi.json` serves it.
#[must_use]
pub fn document() -> Value {
    openapi::document(routes().1)
}

pub(crate) fn router(api: AppState) -> Router {
    let (router, collected) = routes();
    let document = Document::new(&openapi::document(collected));
    router
        .layer(Extension(document))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(api.clone(), middleware))
        .with_state(api)
}

/// Request id, origin check, rendering of problems, metrics.
async fn middleware(State(api): State<AppState>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = trace::request_id(request.headers_mut());
    let method = request.method().clone();
    // The pattern and not the path, which has as many values as there are ids.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unknown".to_owned(), |path| path.as_str().to_owned());
    let mut response = match api.origin_check.refuse(&method, request.headers()) {
        Some(problem) => problem.render(&id),
        None => next.run(request).await,
    };
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        log(&problem, &method, &route, &id);
        let rendered = problem.render(&id);
        // Allow of 405 was set by the router.
        let mut headers = std::mem::take(response.headers_mut());
        headers.remove(http::header::CONTENT_LENGTH);
        response = rendered;
        headers.extend(std::mem::take(response.headers_mut()));
        *response.headers_mut() = headers;
    }
    response.headers_mut().insert(trace::REQUEST_ID, id);
    api.metrics
        .record_call(&method, &route, response.status(), begun.elapsed());
    response
}

fn log(problem: &Problem, method: &Method, route: &str, id: &http::HeaderValue) {
    let (code, detail) = (&*problem.code, problem.detail.as_str());
    if problem.status.is_server_error() {
        tracing::warn!(%method, route, request_id = ?id, code, detail, "not done");
    } else {
        tracing::debug!(%method, route, request_id = ?id, code, detail, "refused");
    }
}

async fn unknown_path(request: Request) -> Problem {
    let detail = format!(
        "there is no {}; /openapi.json says what there is",
        request.uri().path()
    );
    Problem::new(StatusCode::NOT_FOUND, "unknown_path", detail)
}

async fn wrong_method(request: Request) -> Problem {
    let detail = format!("{} has no {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::time::Duration;

    use bismuth_coord::MemoryTree;
    use bismuth_daemon::Shutdown;
    use bismuth_operator::OperatorClient;
    use bismuth_registry::Registry;
    use http::Uri;

    use super::*;
    use crate::logs::client::LogClient;
    use crate::metrics::Metrics;
    use crate::origin_check::OriginCheck;
    use crate::scheduler::Scheduler;
    use crate::svcprovider::SvcproviderClient;

    fn api() -> AppState {
        let registry = Registry::new(Arc::new(MemoryTree::new()), "test".parse().unwrap());
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let url = Uri::from_static(bismuth_operator::DEFAULT_URL);
        let surface = OperatorClient::new(&url, "/nowhere".into(), Duration::ZERO).unwrap();
        AppState {
            scheduler: Arc::new(Scheduler::new(registry.clone())),
            registry,
            logs: LogClient::new(0),
            svcprovider: SvcproviderClient::new(surface, Duration::ZERO),
            metrics,
            shutdown: Shutdown::new(),
            origin_check: Arc::new(OriginCheck::new(([127, 0, 0, 1], 0).into(), Vec::new())),
            answer_within: Duration::ZERO,
        }
    }

    /// axum lists its routes nowhere but in `Debug`: `RouteId(3): "/node"`.
    fn paths(router: &Router) -> BTreeSet<String> {
        let debug = format!("{router:?}");
        let (own, _fallbacks) = debug.split_once("fallback_router: ").unwrap();
        let quoted = |piece: &str| {
            let (_id, value) = piece.split_once("): ")?;
            let (path, _) = value.strip_prefix('"')?.split_once('"')?;
            Some(path.to_owned())
        };
        own.split("RouteId(").filter_map(quoted).collect()
    }

    // Methods are in tests/api/document.rs: what a documented path allows can be asked over HTTP.
    #[tokio::test]
    async fn every_path_of_the_router_is_documented() {
        let documented: BTreeSet<String> = routes().1.paths.paths.into_keys().collect();
        assert!(documented.contains("/function/{id}/logs"));
        assert_eq!(paths(&router(api())), documented);
    }
}
