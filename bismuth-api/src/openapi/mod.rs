//! The OpenAPI document, generated from the handlers, and `GET /openapi.json`.
//!
//! ```text
//!  #[utoipa::path] on each handler ─► OpenApiRouter ─► paths, schemas ─┐
//!  schemas of other crates' types, by hand ────────────────────────────┼─► document
//!  pages of bismuth-daemon, by hand ───────────────────────────────────┘
//! ```

mod pages;
pub(crate) mod responses;
pub(crate) mod schemas;

use axum::Extension;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;
use utoipa::{PartialSchema as _, ToSchema as _};

use responses::ProblemBody;

const DESCRIPTION: &str = "There is no authentication. Times ending in _ms are milliseconds since the Unix epoch. \
    Every error of ours is application/problem+json with a stable `code`, which the header x-bismuth-error repeats.";

/// The document as it is served.
#[derive(Clone, Debug)]
pub(crate) struct Document(Bytes);

impl Document {
    pub(crate) fn new(document: &Value) -> Self {
        Self(document.to_string().into())
    }
}

/// This document
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    responses((status = 200, description = "This document", body = Object, content_type = "application/json"))
)]
pub(crate) async fn get(Extension(Document(document)): Extension<Document>) -> Response {
    ([(CONTENT_TYPE, "application/json")], document).into_response()
}

/// The whole document, from what the router collected.
pub(crate) fn document(collected: OpenApi) -> Value {
    // Maps with strings as keys: serialising them cannot fail.
    let collected = serde_json::to_value(collected).unwrap_or_default();
    let mut paths = object(&collected["paths"]);
    for operation in paths.values_mut().flat_map(operations) {
        operation["responses"]["default"] = responses::unexpected();
    }
    paths.extend(pages::paths());
    let mut components = object(&collected["components"]["schemas"]);
    let problem = serde_json::to_value(ProblemBody::schema()).unwrap_or_default();
    components.insert(ProblemBody::name().into_owned(), problem);
    components.extend(schemas::schemas());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bismuth",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "The control plane: functions, nodes, logs, secrets",
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": components},
    })
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn operations(item: &mut Value) -> impl Iterator<Item = &mut Value> {
    let members = item.as_object_mut().into_iter().flatten();
    members
        .map(|(_, operation)| operation)
        .filter(|operation| operation["responses"].is_object())
}
