//! Handlers of `/function/{id}/revision` and `/function/{id}/rollback`: what was deployed, and going back to it.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use bismuth_model::{FunctionId, ImageReference, Revision, RevisionFate, RevisionRecord};
use bismuth_registry::{Deployment, Error};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::body::read_body;
use crate::functions::answers::FunctionDetail;
use crate::functions::detail;
use crate::openapi::responses::{
    NoFunction, PROBLEM_JSON, PlaceFails, ProblemBody, ReadFails, RollbackRefused,
};
use crate::openapi::schemas::{self, Uuid};
use crate::params::function_id;
use crate::problem::Problem;
use crate::state::AppState;

/// A number and a name, with room for white space.
const MAX_BODY_BYTES: usize = 1024;

/// The kept revisions of a function, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Revisions {
    revisions: Vec<KeptRevision>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revision)]
pub(crate) struct KeptRevision {
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = String)]
    image: ImageReference,
    created_ms: u64,
    /// What became of it; a pending one has not run yet
    #[schema(value_type = schemas::Fate)]
    fate: &'static str,
    /// Why it failed
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// Whether it is what the deployer wants
    wanted: bool,
    /// Whether requests go to it
    serving: bool,
}

/// Its schema is by hand: a type would make the body required.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollbackRequest {
    #[serde(default)]
    revision: Option<Revision>,
}

/// The kept revisions: the one that serves, the wanted one and the last ten
#[utoipa::path(
    get,
    path = "/function/{id}/revision",
    operation_id = "listRevisions",
    params(("id" = Uuid, Path, description = "The function")),
    responses(
        (status = 200, description = "The revisions", body = Revisions),
        NoFunction,
        ReadFails,
    )
)]
pub(crate) async fn list(
    State(api): State<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Revisions>, Problem> {
    let id = function_id(id)?;
    let read = async {
        let deployment = known(&api, id).await?;
        let kept = api.registry.kept_revisions(&deployment).await?.into_iter();
        let revisions = kept.map(|(revision, record)| shown(&deployment, revision, record));
        Ok(Json(Revisions {
            revisions: revisions.rev().collect(),
        }))
    };
    api.read(&format!("read the revisions of function {id}"), read)
        .await
}

/// Deploy the definition of a kept revision again
///
/// It gets a number of its own, and requests go to it once it has run
#[utoipa::path(
    post,
    path = "/function/{id}/rollback",
    operation_id = "rollBackFunction",
    params(("id" = Uuid, Path, description = "The function")),
    request_body(content = ref("#/components/schemas/RollbackRequest"), content_type = "application/json"),
    responses(
        (status = 200, description = "Written, and being rolled out", body = FunctionDetail),
        (
            status = 404,
            description = "No such function (`unknown_function`), not an id (`malformed_id`), or not a kept revision (`unknown_revision`)",
            body = ProblemBody,
            content_type = PROBLEM_JSON,
        ),
        RollbackRefused,
        PlaceFails,
    )
)]
pub(crate) async fn roll_back(
    State(api): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<FunctionDetail>, Problem> {
    let id = function_id(id)?;
    let RollbackRequest { revision } = request(body).await?;
    let act = format!("roll back function {id}");
    let back = async {
        let deployment = known(&api, id).await?;
        let target = match revision {
            Some(revision) => Some(revision),
            None => api.registry.rollback_target(&deployment).await?,
        };
        let (target, kept) = kept(&api, id, target).await?;
        let slots = api.scheduler.slots_for(&kept.definition).await?;
        let replace =
            api.registry
                .replace_definition(id, &kept.definition, deployment.version(), &slots);
        let replaced = Box::pin(replace).await;
        let record = replaced.map_err(|error| Problem::about(&kept.definition, error))?;
        tracing::info!(function = %id, to = %target, as_revision = %record.revision, "rolled back; the leader rolls it out");
        Ok(())
    };
    api.write(&act, back).await?;
    api.read(&format!("read function {id}"), detail(&api, id))
        .await
        .map(Json)
}

async fn known(api: &AppState, id: FunctionId) -> Result<Deployment, Problem> {
    let deployment = api.registry.deployment(id).await?;
    Ok(deployment.ok_or(Error::FunctionUnknown { id })?)
}

/// The definition to go back to.
async fn kept(
    api: &AppState,
    id: FunctionId,
    target: Option<Revision>,
) -> Result<(Revision, RevisionRecord), Problem> {
    let unknown =
        |detail| Problem::new(StatusCode::NOT_FOUND, "unknown_revision", detail).field("revision");
    let none = || {
        unknown(format!(
            "function {id} has no earlier revision that has run"
        ))
    };
    let target = target.ok_or_else(none)?;
    let kept = api.registry.revision(id, target).await?;
    let gone = || unknown(format!("revision {target} of function {id} is not kept"));
    Ok((target, kept.ok_or_else(gone)?))
}

async fn request(body: Body) -> Result<RollbackRequest, Problem> {
    let body = read_body(body, MAX_BODY_BYTES, "body", "body_too_large").await?;
    if body.trim_ascii().is_empty() {
        return Ok(RollbackRequest::default());
    }
    serde_json::from_slice(&body).map_err(|error| {
        let detail = format!("the body is not as it should be: {error}");
        Problem::new(StatusCode::BAD_REQUEST, "body_malformed", detail)
    })
}

fn shown(deployment: &Deployment, revision: Revision, record: RevisionRecord) -> KeptRevision {
    let (fate, reason) = match record.fate {
        RevisionFate::Pending => ("pending", None),
        RevisionFate::Proven => ("proven", None),
        RevisionFate::Failed { reason } => ("failed", Some(reason)),
    };
    let groups = &deployment.serving.groups;
    KeptRevision {
        revision,
        image: record.definition.image,
        created_ms: record.created_ms,
        fate,
        reason,
        wanted: revision == deployment.wanted.revision,
        serving: groups.iter().any(|group| group.revision == revision),
    }
}
