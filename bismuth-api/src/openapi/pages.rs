//! The pages that [`bismuth_daemon::Admin`] serves beside the router, described by hand.

use serde_json::{Map, Value, json};

/// Path items by path.
pub(super) fn paths() -> Map<String, Value> {
    let health = [page("200", "text/plain", "ok")];
    let ready = [
        page("200", "text/plain", "ready"),
        page("503", "text/plain", "What it waits for, a line each"),
    ];
    let metrics = [page("200", "application/openmetrics-text", "Metrics")];
    [
        ("/healthz", get("health", "The process answers", health)),
        ("/readyz", get("ready", "It can do its work", ready)),
        ("/metrics", get("metrics", "OpenMetrics", metrics)),
    ]
    .map(|(path, item)| (path.to_owned(), item))
    .into_iter()
    .collect()
}

fn get<const N: usize>(id: &str, summary: &str, responses: [(String, Value); N]) -> Value {
    let responses: Map<String, Value> = responses.into_iter().collect();
    json!({"get": {"operationId": id, "summary": summary, "responses": responses}})
}

fn page(status: &str, content_type: &str, description: &str) -> (String, Value) {
    let content = json!({content_type: {"schema": {"type": "string"}}});
    let response = json!({"description": description, "content": content});
    (status.to_owned(), response)
}
