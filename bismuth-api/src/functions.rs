//! Functions over HTTP: validate, place, one transaction.

use std::collections::BTreeSet;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use bismuth_model::{
    Backend, ContainerRecord, FunctionDefinition, FunctionId, ImageReference, InvokeMode,
    MAX_DEFINITION_BYTES, Revision, Route,
};
use bismuth_registry::Function;
use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::body::read_body;
use crate::params::{function_id, malformed_query};
use crate::problem::Failure;
use crate::purge;
use crate::state::Api;

/// Functions on a page unless asked otherwise, and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// `{"id": …}`.
#[derive(Debug, Serialize)]
pub(crate) struct CreatedFunction {
    id: FunctionId,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeleteQuery {
    #[serde(default)]
    purge: bool,
}

/// `{"id": …}`, and what became of its data if that was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct DeletedFunction {
    id: FunctionId,
    #[serde(flatten)]
    data: Option<purge::Data>,
}

/// A function with all its slots.
#[derive(Debug, Serialize)]
pub(crate) struct FunctionDetail {
    definition: FunctionDefinition,
    /// Newest revision first.
    backends: Vec<FunctionSlot>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FunctionSlot {
    backend: Backend,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
    /// Whether requests go to it.
    routed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_ms: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PageQuery {
    after: Option<FunctionId>,
    limit: Option<usize>,
}

/// Some functions, in the order of their ids.
#[derive(Debug, Serialize)]
pub(crate) struct FunctionPage {
    functions: Vec<FunctionSummary>,
    /// The `after` of the next page; null on the last.
    next: Option<FunctionId>,
    /// Functions of this page whose records cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<FunctionId>,
}

#[derive(Debug, Serialize)]
struct FunctionSummary {
    id: FunctionId,
    image: ImageReference,
    invoke_mode: InvokeMode,
    routes: Vec<Route>,
    revision: Revision,
    backends: Vec<Backend>,
    created_ms: u64,
    updated_ms: u64,
}

/// `POST /function`.
pub(crate) async fn create(
    State(api): State<Api>,
    body: Body,
) -> Result<Json<CreatedFunction>, Failure> {
    let definition = definition(&definition_body(body).await?)?;
    let id = FunctionId::new_random();
    let make = async {
        let slots = api.placing.slots_for(&definition).await?;
        let made = api.registry.create_function(id, &definition, &slots).await;
        made.map_err(|error| Failure::about(&definition, error))
    };
    api.change(&format!("create function {id}"), make).await?;
    tracing::info!(function = %id, image = %definition.image, "created");
    Ok(Json(CreatedFunction { id }))
}

/// `GET /function`.
pub(crate) async fn list(
    State(api): State<Api>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<FunctionPage>, Failure> {
    let Query(query) = query.map_err(|rejection| malformed_query(&rejection))?;
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        let detail = format!("limit: {limit} is not from 1 to {LARGEST_PAGE}");
        return Err(Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "query_out_of_range",
            detail,
        )
        .field("limit"));
    }
    let page = api
        .ask("list the functions", async {
            Ok(api.registry.list_functions(query.after, limit).await?)
        })
        .await?;
    Ok(Json(FunctionPage {
        functions: page.functions.into_iter().map(summary).collect(),
        next: page.next,
        unreadable: page.unreadable,
    }))
}

/// `GET /function/{id}`.
pub(crate) async fn get(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<FunctionDetail>, Failure> {
    let id = function_id(id)?;
    api.ask(&format!("read function {id}"), shown(&api, id))
        .await
        .map(Json)
}

/// `PUT /function/{id}`: the next revision, or the same definition again if the body is empty.
pub(crate) async fn replace(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    body: Body,
) -> Result<Json<FunctionDetail>, Failure> {
    let id = function_id(id)?;
    let body = definition_body(body).await?;
    let given = if body.trim_ascii().is_empty() {
        None
    } else {
        Some(definition(&body)?)
    };
    let act = format!("replace the definition of function {id}");
    let revision = api
        .change(&act, async {
            let current = api.function(id).await?;
            let definition = given.unwrap_or(current.record.definition);
            let slots = api.placing.slots_for(&definition).await?;
            let replaced = api
                .registry
                .replace_definition(id, &definition, current.version, &slots)
                .await;
            let record = replaced.map_err(|error| Failure::about(&definition, error))?;
            Ok(record.revision)
        })
        .await?;
    tracing::info!(function = %id, %revision, "replaced; the rollout begins");
    api.rollouts.begin(id);
    api.ask(&format!("read function {id}"), shown(&api, id))
        .await
        .map(Json)
}

/// `DELETE /function/{id}?purge=`.
pub(crate) async fn delete(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<DeleteQuery>, QueryRejection>,
) -> Result<Json<DeletedFunction>, Failure> {
    let id = function_id(id)?;
    let Query(query) = query.map_err(|rejection| malformed_query(&rejection))?;
    if query.purge {
        let data = Some(purge::delete(api, id).await?);
        return Ok(Json(DeletedFunction { id, data }));
    }
    api.change(&format!("delete function {id}"), async {
        Ok(api.registry.delete_function(id).await?)
    })
    .await?;
    tracing::info!(function = %id, "deleted");
    Ok(Json(DeletedFunction { id, data: None }))
}

async fn shown(api: &Api, id: FunctionId) -> Result<FunctionDetail, Failure> {
    // The function first: a slot that is switched to meanwhile is shown as not routed yet, and none is missed.
    let function = api.function(id).await?;
    let slots = api.registry.function_containers(id).await?;
    Ok(show(function, slots))
}

fn show(function: Function, slots: Vec<(Backend, ContainerRecord)>) -> FunctionDetail {
    let assigned: BTreeSet<Backend> = slots.iter().map(|(slot, _)| *slot).collect();
    let routed: BTreeSet<Backend> = function.backends.iter().copied().collect();
    let mut backends: Vec<FunctionSlot> = slots
        .into_iter()
        .map(|(slot, record)| show_slot(slot, record, routed.contains(&slot)))
        .collect();
    backends.extend(
        routed
            .difference(&assigned)
            .map(|slot| show_unassigned(*slot)),
    );
    FunctionDetail {
        definition: function.record.definition,
        backends,
    }
}

fn show_slot(slot: Backend, record: ContainerRecord, routed: bool) -> FunctionSlot {
    let status = record.status;
    FunctionSlot {
        backend: slot,
        status: status.state.public_name(),
        reason: status.reason,
        revision: Some(record.revision),
        routed,
        pid: status.pid,
        created_ms: Some(status.created_ms),
        started_ms: status.started_ms,
        changed_ms: Some(status.changed_ms),
    }
}

/// Requests are sent there and no node was told: a contradiction that only hands can make.
fn show_unassigned(slot: Backend) -> FunctionSlot {
    FunctionSlot {
        backend: slot,
        status: "Failed",
        reason: Some(
            "it is routed and assigned to no node; `bismuthctl consistency` mends it".to_owned(),
        ),
        revision: None,
        routed: true,
        pid: None,
        created_ms: None,
        started_ms: None,
        changed_ms: None,
    }
}

fn summary(function: Function) -> FunctionSummary {
    let record = function.record;
    FunctionSummary {
        id: function.id,
        image: record.definition.image,
        invoke_mode: record.definition.invoke_mode,
        routes: record.definition.routes,
        revision: record.revision,
        backends: function.backends,
        created_ms: record.created_ms,
        updated_ms: record.updated_ms,
    }
}

async fn definition_body(body: Body) -> Result<Bytes, Failure> {
    read_body(body, MAX_DEFINITION_BYTES).await?.ok_or_else(|| {
        let detail = format!("the definition has more than {MAX_DEFINITION_BYTES} bytes");
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "definition_too_large",
            detail,
        )
        .field(".")
    })
}

fn definition(body: &Bytes) -> Result<FunctionDefinition, Failure> {
    FunctionDefinition::from_json(body).map_err(|error| Failure::definition(&error))
}
