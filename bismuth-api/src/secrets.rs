//! Handlers of `/group/{group}/secret`: forwarded to svcprovider. Values are never answered, logged or counted.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use bismuth_model::ServiceGroup;
use bismuth_operator::Call;
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::body::read_body;
use crate::openapi::responses::{
    PROBLEM_JSON, ProblemBody, SecretRefused, SvcproviderReadFails, SvcproviderWriteFails,
};
use crate::openapi::schemas::{Group, SecretName, SecretValue, SecretVersion, Secrets};
use crate::problem::Problem;
use crate::state::AppState;
use crate::svcprovider::Effect;

/// The largest value that svcprovider takes.
const MAX_BYTES: usize = 64 * 1024;

const GROUP: &str = "A function's `svc_group_id`, or its id if it has none";
const NAME: &str = "The secret, percent-encoded";
const VALUE: &str = "The value as it is; it is in no answer, log or metric";
const NO_GROUP: &str = "Not the name of a group (`malformed_group`)";
const NO_SECRET: &str =
    "No such secret (`unknown_secret`), or not the name of a group (`malformed_group`)";

type Named = Result<Path<(String, String)>, PathRejection>;

/// The secrets of a group, without their values
#[utoipa::path(
    get,
    path = "/group/{group}/secret",
    operation_id = "listSecrets",
    params(("group" = Group, Path, description = GROUP)),
    responses(
        (status = 200, description = "The secrets", body = Secrets),
        (status = 404, description = NO_GROUP, body = ProblemBody, content_type = PROBLEM_JSON),
        SvcproviderReadFails,
    )
)]
pub(crate) async fn list(
    State(api): State<AppState>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    let Path(text) = path.map_err(|rejection| malformed(&rejection))?;
    let call = Call::secrets(Method::GET, &group(&text)?);
    api.svcprovider
        .forward(call, Bytes::new(), Effect::Read)
        .await
}

/// Set a secret; one that is there gets another version
#[utoipa::path(
    put,
    path = "/group/{group}/secret/{name}",
    operation_id = "setSecret",
    params(
        ("group" = Group, Path, description = GROUP),
        ("name" = String, Path, description = NAME),
    ),
    request_body(content = SecretValue, content_type = "application/octet-stream", description = VALUE),
    responses(
        (status = 200, description = "It has another version", body = SecretVersion),
        (status = 201, description = "It is new", body = SecretVersion),
        (status = 404, description = NO_GROUP, body = ProblemBody, content_type = PROBLEM_JSON),
        SecretRefused,
        SvcproviderWriteFails,
    )
)]
pub(crate) async fn set(
    State(api): State<AppState>,
    path: Named,
    body: Body,
) -> Result<Response, Problem> {
    let call = |group: &ServiceGroup, name: &str| Call::secret(Method::PUT, group, name);
    change(&api, path, body, call, "set").await
}

/// Give a secret that is there a new value; the one before stays readable by its version
#[utoipa::path(
    post,
    path = "/group/{group}/secret/{name}/rotate",
    operation_id = "rotateSecret",
    params(
        ("group" = Group, Path, description = GROUP),
        ("name" = String, Path, description = NAME),
    ),
    request_body(content = SecretValue, content_type = "application/octet-stream", description = VALUE),
    responses(
        (status = 200, description = "It has another version", body = SecretVersion),
        (status = 404, description = NO_SECRET, body = ProblemBody, content_type = PROBLEM_JSON),
        SecretRefused,
        SvcproviderWriteFails,
    )
)]
pub(crate) async fn rotate(
    State(api): State<AppState>,
    path: Named,
    body: Body,
) -> Result<Response, Problem> {
    change(&api, path, body, Call::rotate, "rotated").await
}

/// Delete a secret with all its versions
#[utoipa::path(
    delete,
    path = "/group/{group}/secret/{name}",
    operation_id = "deleteSecret",
    params(
        ("group" = Group, Path, description = GROUP),
        ("name" = String, Path, description = NAME),
    ),
    responses(
        (status = 200, description = "Deleted", body = SecretName),
        (
            status = 400,
            description = "The name is not allowed (`malformed_name`, or in svcprovider's words)",
            body = ProblemBody,
            content_type = PROBLEM_JSON,
        ),
        (status = 404, description = NO_SECRET, body = ProblemBody, content_type = PROBLEM_JSON),
        SvcproviderWriteFails,
    )
)]
pub(crate) async fn delete(State(api): State<AppState>, path: Named) -> Result<Response, Problem> {
    let call = |group: &ServiceGroup, name: &str| Call::secret(Method::DELETE, group, name);
    change(&api, path, Body::empty(), call, "deleted").await
}

/// Forwards a call that changes one secret, and logs what was `done`.
async fn change(
    api: &AppState,
    path: Named,
    body: Body,
    call: impl FnOnce(&ServiceGroup, &str) -> Call,
    done: &str,
) -> Result<Response, Problem> {
    let Path((text, name)) = path.map_err(|rejection| malformed(&rejection))?;
    let group = group(&text)?;
    let value = read_body(body, MAX_BYTES, "secret", "secret_too_large").await?;
    let call = call(&group, &name);
    let answer = api.svcprovider.forward(call, value, Effect::Write).await?;
    tracing::info!(%group, name, "secret {done}");
    Ok(answer)
}

/// A malformed group has nothing, so it is not found.
fn group(text: &str) -> Result<ServiceGroup, Problem> {
    text.parse()
        .map_err(|error: bismuth_model::ServiceGroupError| {
            Problem::new(StatusCode::NOT_FOUND, "malformed_group", error.to_string()).field("group")
        })
}

fn malformed(rejection: &PathRejection) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "malformed_name",
        rejection.body_text(),
    )
    .field("name")
}
