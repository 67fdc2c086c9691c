//! Handlers of `/function` and `/function/{id}`: validate, place, one transaction.

pub(crate) mod answers;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use bismuth_model::{
    Backend, FunctionDefinition, FunctionId, MAX_DEFINITION_BYTES, Revision, RevisionFate,
};
use bismuth_registry::Error;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::body::read_body;
use crate::idempotency;
use crate::openapi::responses::{
    DefinitionRefused, NoFunction, PROBLEM_JSON, PlaceFails, ProblemBody, QueryRefused, ReadFails,
};
use crate::openapi::schemas::{self, Uuid};
use crate::params::{function_id, malformed_query};
use crate::problem::Problem;
use crate::purge;
use crate::state::AppState;
use answers::{FunctionDetail, FunctionPage, function_detail, function_summary};

/// Functions on a page unless asked otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

const NOT_DELETED: &str = "ZooKeeper does not answer (`zookeeper_unavailable`: nothing was changed; `outcome_unknown`: look before \
    you try again), or the environment is not there (`not_bootstrapped`); with `purge` also: svcprovider does not answer \
    (`svcprovider_unavailable`), or its token is missing, open to others or another (`svcprovider_token`), and nothing was \
    deleted; `not_purged`: the function is deleted and its data is not";

/// The id of a function
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FunctionId)]
pub(crate) struct CreatedFunction {
    #[schema(value_type = Uuid)]
    id: FunctionId,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteQuery {
    /// Delete the keys, blobs and secrets of its group too, unless another function is in it
    #[serde(default)]
    #[param(default = false)]
    purge: bool,
}

/// The id of the deleted function, and what became of its data if that was asked for
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedFunction {
    #[schema(value_type = Uuid)]
    id: FunctionId,
    #[serde(flatten)]
    #[schema(value_type = purge::PurgedData)]
    data: Option<purge::PurgedData>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Begin after this id
    #[param(value_type = Uuid, required = false)]
    after: Option<FunctionId>,
    /// Functions on the page
    #[param(nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<usize>,
}

/// Create a function: all its slots are placed and started once
///
/// Repeated with the same `Idempotency-Key`, it is one function
#[utoipa::path(
    post,
    path = "/function",
    operation_id = "createFunction",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters, chosen at random")),
    request_body = schemas::FunctionDefinition,
    responses(
        (status = 200, description = "Created, now or by the same call before", body = CreatedFunction),
        DefinitionRefused,
        PlaceFails,
    )
)]
pub(crate) async fn create(
    State(api): State<AppState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CreatedFunction>, Problem> {
    let key = idempotency::function_id(&headers)?;
    let definition = definition(&definition_body(body).await?)?;
    let id = key.unwrap_or_else(FunctionId::new_random);
    let make = async {
        // A repeat is answered also when no node could take another function.
        if key.is_some() && api.registry.function(id).await?.is_some() {
            return idempotency::check_repeated(&api, id, &definition).await;
        }
        let slots = api.scheduler.slots_for(&definition).await?;
        let made = api.registry.create_function(id, &definition, &slots).await;
        match made {
            Err(Error::FunctionExists { .. }) if key.is_some() => {
                idempotency::check_repeated(&api, id, &definition).await
            }
            Err(error) => Err(Problem::about(&definition, error)),
            Ok(_) => {
                tracing::info!(function = %id, image = %definition.image, "created");
                Ok(())
            }
        }
    };
    api.write(&format!("create function {id}"), make).await?;
    Ok(Json(CreatedFunction { id }))
}

/// A page of functions, in the order of their ids
#[utoipa::path(
    get,
    path = "/function",
    operation_id = "listFunctions",
    params(PageQuery),
    responses(
        (status = 200, description = "The page", body = FunctionPage),
        QueryRefused,
        (
            status = 422,
            description = "A limit that is not allowed (`query_out_of_range`)",
            body = ProblemBody,
            content_type = PROBLEM_JSON,
        ),
        ReadFails,
    )
)]
pub(crate) async fn list(
    State(api): State<AppState>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<FunctionPage>, Problem> {
    let Query(query) = query.map_err(|rejection| malformed_query(&rejection))?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        let detail = format!("limit: {limit} is not from 1 to {LARGEST_PAGE}");
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "query_out_of_range",
            detail,
        )
        .field("limit"));
    }
    let page = api
        .read("list the functions", async {
            Ok(api.registry.list_functions(query.after, limit).await?)
        })
        .await?;
    Ok(Json(FunctionPage {
        functions: page.functions.into_iter().map(function_summary).collect(),
        next: page.next,
        unreadable: page.unreadable,
    }))
}

/// A function and all its slots
#[utoipa::path(
    get,
    path = "/function/{id}",
    operation_id = "getFunction",
    params(("id" = Uuid, Path, description = "The function")),
    responses(
        (status = 200, description = "The function", body = FunctionDetail),
        NoFunction,
        ReadFails,
    )
)]
pub(crate) async fn get(
    State(api): State<AppState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<FunctionDetail>, Problem> {
    let id = function_id(id)?;
    api.read(&format!("read function {id}"), detail(&api, id))
        .await
        .map(Json)
}

/// The next revision; with an empty body the wanted definition again. A function that is not there is created
///
/// Requests go to the old slots until all of the new ones have run; when they fail, the old go on
#[utoipa::path(
    put,
    path = "/function/{id}",
    operation_id = "replaceFunction",
    params(("id" = Uuid, Path, description = "The function")),
    // By reference, because a type would make the body required.
    request_body(content = ref("#/components/schemas/FunctionDefinition"), content_type = "application/json"),
    responses(
        (status = 200, description = "Written, and being rolled out", body = FunctionDetail),
        DefinitionRefused,
        NoFunction,
        PlaceFails,
    )
)]
pub(crate) async fn replace(
    State(api): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<FunctionDetail>, Problem> {
    let id = function_id(id)?;
    let body = definition_body(body).await?;
    let given = if body.trim_ascii().is_empty() {
        None
    } else {
        Some(definition(&body)?)
    };
    let act = format!("replace the definition of function {id}");
    let revision = api
        .write(&act, async {
            let (current, definition) = match (api.registry.function(id).await?, given) {
                (Some(current), given) => {
                    let wanted = current.record.definition.clone();
                    (current, given.unwrap_or(wanted))
                }
                (None, Some(definition)) => return create_as(&api, id, &definition).await,
                (None, None) => return Err(Error::FunctionUnknown { id }.into()),
            };
            let slots = api.scheduler.slots_for(&definition).await?;
            let replace = api
                .registry
                .replace_definition(id, &definition, current.version, &slots);
            let replaced = Box::pin(replace).await;
            let record = replaced.map_err(|error| Problem::about(&definition, error))?;
            Ok(record.revision)
        })
        .await?;
    tracing::info!(function = %id, %revision, "replaced; the leader rolls it out");
    api.read(&format!("read function {id}"), detail(&api, id))
        .await
        .map(Json)
}

/// Delete it: its routes are gone at once, its containers are drained and removed
#[utoipa::path(
    delete,
    path = "/function/{id}",
    operation_id = "deleteFunction",
    params(("id" = Uuid, Path, description = "The function"), DeleteQuery),
    responses(
        (status = 200, description = "Deleted; with `purge`, what became of the data", body = DeletedFunction),
        QueryRefused,
        NoFunction,
        (
            status = 409,
            description = "Others changed it again and again (`contended`)",
            body = ProblemBody,
            content_type = PROBLEM_JSON,
        ),
        (status = 503, description = NOT_DELETED, body = ProblemBody, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn delete(
    State(api): State<AppState>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<Json<DeletedFunction>, Problem> {
    let id = function_id(id)?;
    let Query(query) = query.map_err(|rejection| malformed_query(&rejection))?;
    if query.purge {
        let data = Some(purge::delete(api, id).await?);
        return Ok(Json(DeletedFunction { id, data }));
    }
    api.write(&format!("delete function {id}"), async {
        Ok(api.registry.delete_function(id).await?)
    })
    .await?;
    tracing::info!(function = %id, "deleted");
    Ok(Json(DeletedFunction { id, data: None }))
}

/// Creates a function under an id that its deployer chose.
async fn create_as(
    api: &AppState,
    id: FunctionId,
    definition: &FunctionDefinition,
) -> Result<Revision, Problem> {
    let slots = api.scheduler.slots_for(definition).await?;
    let create = api.registry.create_function(id, definition, &slots);
    match Box::pin(create).await {
        Ok(record) => Ok(record.revision),
        // By somebody else, just now.
        Err(Error::FunctionExists { id }) => Err(Error::FunctionChanged { id }.into()),
        Err(error) => Err(Problem::about(definition, error)),
    }
}

/// Reads what is of this function and of its nodes only.
pub(crate) async fn detail(api: &AppState, id: FunctionId) -> Result<FunctionDetail, Problem> {
    let deployment = api.registry.deployment(id).await?;
    let deployment = deployment.ok_or(Error::FunctionUnknown { id })?;
    let slots: Vec<Backend> = deployment.slots.iter().map(|slot| slot.backend).collect();
    let records = api.registry.container_statuses(&slots).await?;
    let alive = api.registry.facts_of(slots.iter().map(|slot| slot.ip));
    let alive: BTreeSet<Ipv4Addr> = alive.await?.into_keys().collect();
    let kept = async |revision| match api.registry.revision(id, revision).await {
        // For the audit: the rest of the answer is as good without it.
        Err(Error::Record { .. }) => Ok(None),
        read => read,
    };
    let newest = kept(deployment.wanted.revision).await?;
    let fate = newest.map_or(RevisionFate::Pending, |newest| newest.fate);
    let serving = match deployment.serving.revision() {
        Some(revision) if revision != deployment.wanted.revision => {
            kept(revision).await?.map(|kept| kept.definition)
        }
        _ => None,
    };
    Ok(function_detail(
        deployment,
        records,
        &alive,
        (fate, serving),
    ))
}

async fn definition_body(body: Body) -> Result<Bytes, Problem> {
    read_body(
        body,
        MAX_DEFINITION_BYTES,
        "definition",
        "definition_too_large",
    )
    .await
}

fn definition(body: &Bytes) -> Result<FunctionDefinition, Problem> {
    FunctionDefinition::from_json(body).map_err(|error| Problem::definition(&error))
}
