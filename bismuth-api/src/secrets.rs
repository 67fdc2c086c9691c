//! Secrets over HTTP: passed on to svcprovider. Values go in and never come out, and nothing here logs or counts them.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use bismuth_model::ServiceGroup;
use bismuth_operator::Call;
use bytes::Bytes;
use http::{Method, StatusCode};

use crate::body::read_body;
use crate::problem::Failure;
use crate::services::Effect;
use crate::state::Api;

/// The largest value that svcprovider takes.
const MAX_BYTES: usize = 64 * 1024;

type Named = Result<Path<(String, String)>, PathRejection>;

/// `GET /group/{group}/secret`.
pub(crate) async fn list(
    State(api): State<Api>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(text) = path.map_err(|rejection| malformed(&rejection))?;
    let call = Call::secrets(Method::GET, &group(&text)?);
    api.services.pass(call, Bytes::new(), Effect::Reads).await
}

/// `PUT /group/{group}/secret/{name}`.
pub(crate) async fn set(
    State(api): State<Api>,
    path: Named,
    body: Body,
) -> Result<Response, Failure> {
    let (group, name) = named(path)?;
    let call = Call::secret(Method::PUT, &group, &name);
    let value = value(body).await?;
    let answer = api.services.pass(call, value, Effect::Changes).await?;
    tracing::info!(%group, name, "secret set");
    Ok(answer)
}

/// `POST /group/{group}/secret/{name}/rotate`.
pub(crate) async fn rotate(
    State(api): State<Api>,
    path: Named,
    body: Body,
) -> Result<Response, Failure> {
    let (group, name) = named(path)?;
    let call = Call::rotate(&group, &name);
    let value = value(body).await?;
    let answer = api.services.pass(call, value, Effect::Changes).await?;
    tracing::info!(%group, name, "secret rotated");
    Ok(answer)
}

/// `DELETE /group/{group}/secret/{name}`.
pub(crate) async fn delete(State(api): State<Api>, path: Named) -> Result<Response, Failure> {
    let (group, name) = named(path)?;
    let call = Call::secret(Method::DELETE, &group, &name);
    let pass = api.services.pass(call, Bytes::new(), Effect::Changes);
    let answer = pass.await?;
    tracing::info!(%group, name, "secret deleted");
    Ok(answer)
}

fn named(path: Named) -> Result<(ServiceGroup, String), Failure> {
    let Path((text, name)) = path.map_err(|rejection| malformed(&rejection))?;
    Ok((group(&text)?, name))
}

/// A malformed group has nothing, so it is not found.
fn group(text: &str) -> Result<ServiceGroup, Failure> {
    text.parse()
        .map_err(|error: bismuth_model::ServiceGroupError| {
            Failure::new(StatusCode::NOT_FOUND, "malformed_group", error.to_string()).field("group")
        })
}

fn malformed(rejection: &PathRejection) -> Failure {
    Failure::new(
        StatusCode::BAD_REQUEST,
        "malformed_name",
        rejection.body_text(),
    )
    .field("name")
}

async fn value(body: Body) -> Result<Bytes, Failure> {
    read_body(body, MAX_BYTES).await?.ok_or_else(|| {
        let detail = format!("the secret has more than {MAX_BYTES} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "secret_too_large", detail).field(".")
    })
}
