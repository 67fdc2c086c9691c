//! The HTTP API for operators: bismuthctl and bismuth-api call it.
//!
//! ```text
//!  request ─► shows the token? ─┬─► /                 204: the engines are there, and the token is right
//!               401             ├─► /group            which groups have anything
//!                               ├─► /group/{group}    what one has; DELETE purges it
//!                               ├─► /group/{group}/kv/v1/…  /blob/v1/…    as functions have it, without quotas
//!                               ├─► /group/{group}/secret/{name}          set, rotate, delete, list
//!                               └─► /rewrap           every data key under the current master key
//! ```
//!
//! No answer has the value of a secret in it: operators write them, functions read them.

mod groups;
mod secret;
mod serve;
mod token;

use std::sync::Arc;
use std::time::Instant;

use bismuth_http::Body;
use bismuth_model::ServiceGroup;
use bismuth_store::secrets::{SecretError, Secrets};
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::json;

pub use serve::{OperatorError, run};
pub use token::{OperatorToken, TokenError};

use crate::http::listing;
use crate::http::problems::{self, Refusal};
use crate::http::{AppState, Caller, HandlerResult, RequestContext, empty, percent, respond};
use crate::metrics::Api;

/// What the operator API works with.
#[derive(Clone)]
pub struct OperatorApi {
    /// Keys and blobs.
    pub app: AppState,
    /// Secrets, to write.
    pub secrets: Arc<Secrets>,
    /// What requests must show.
    pub token: OperatorToken,
}

impl OperatorApi {
    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let begun = Instant::now();
        let (mut head, body) = request.into_parts();
        let handled = match self.token.is_shown(&head.headers) {
            true => self.route(&head, body).await,
            false => Err(unauthorized()),
        };
        let metrics = &self.app.metrics;
        respond(metrics, Api::Operator, begun, &mut head, handled)
    }

    async fn route(&self, head: &Parts, body: Incoming) -> HandlerResult {
        let path = head.uri.path();
        if path == "/" {
            only(head, "GET, HEAD")?;
            self.app.records.check().await?;
            self.app.blobs.check().await?;
            return Ok(empty(StatusCode::NO_CONTENT));
        }
        if path == "/rewrap" {
            only(head, "POST")?;
            let done = self.secrets.rewrap().await.map_err(secrets_failed)?;
            return listing::json(&json!({ "groups": done.groups, "master_key": done.master_key }));
        }
        let Some(rest) = path.strip_prefix("/group") else {
            return Err(unknown_path());
        };
        let rest = match rest.strip_prefix('/') {
            None | Some("") if rest.len() <= 1 => return groups::list(self, head).await,
            Some(rest) => rest,
            None => return Err(unknown_path()),
        };
        let (group, rest) = rest.split_once('/').unwrap_or((rest, ""));
        let group = group_of(group)?;
        if rest.is_empty() {
            return groups::one(self, head, &group).await;
        }
        if rest == "secret" || rest.starts_with("secret/") {
            let name = rest["secret".len()..].trim_start_matches('/');
            return secret::answer(self, head, &group, name, body).await;
        }
        let path = &path[path.len() - rest.len() - 1..];
        if !(path.starts_with("/kv/v1") || path.starts_with("/blob/v1")) {
            return Err(unknown_path());
        }
        let (app, caller) = (&self.app, &Caller::operator(group));
        crate::http::route(RequestContext { app, caller, head }, path, body).await
    }
}

fn group_of(encoded: &str) -> Result<ServiceGroup, Refusal> {
    let name = percent::decode(encoded.as_bytes(), |byte| byte)?;
    name.parse().map_err(|error| {
        let detail = format!("{name:?} is no group: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, "bad_group", detail)
    })
}

/// Refuses the methods that are not among those `allowed`, which commas separate.
fn only(head: &Parts, allowed: &'static str) -> Result<(), Refusal> {
    match allowed.split(", ").any(|method| head.method == method) {
        true => Ok(()),
        false => Err(problems::method(allowed)),
    }
}

/// Operators are told what is wrong: they mend it.
fn secrets_failed(error: SecretError) -> Refusal {
    let detail = bismuth_base::chain(&error);
    let (status, code) = match error {
        SecretError::Engine(error) => return error.into(),
        SecretError::Size { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        SecretError::TooMany => (StatusCode::INSUFFICIENT_STORAGE, "too_many_secrets"),
        SecretError::Contended { .. } => (StatusCode::CONFLICT, "contended"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "secrets_broken"),
    };
    if status.is_server_error() {
        tracing::error!(error = detail, "secrets are broken");
    }
    Refusal::new(status, code, detail)
}

fn unauthorized() -> Refusal {
    let detail = "the request does not carry the operator's token, which is in svcprovider's --operator-token-file";
    let challenge = HeaderValue::from_static("Bearer realm=\"bismuth operator\"");
    Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).with(WWW_AUTHENTICATE, challenge)
}

fn unknown_path() -> Refusal {
    let detail = "there are /, /group, /group/{group}, /group/{group}/kv/v1/, /blob/v1/, /secret, and /rewrap";
    Refusal::new(StatusCode::NOT_FOUND, "unknown_path", detail)
}
