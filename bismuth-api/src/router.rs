//! Which call does what, and what all calls have in common.
//!
//! ```text
//!  request ─► id ─► from a web page? ─► route ─► handler ─► Failure? rendered ─► counted ─► answer
//! ```

use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use bismuth_http::trace;
use http::{Method, StatusCode};

use crate::problem::Failure;
use crate::state::Api;
use crate::{functions, logs, nodes, openapi, secrets};

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
