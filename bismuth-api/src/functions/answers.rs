//! JSON representations of functions and their slots.

use std::collections::BTreeSet;

use bismuth_model::{
    Backend, ContainerRecord, FunctionDefinition, FunctionId, ImageReference, InvokeMode, Revision,
    Route,
};
use bismuth_registry::Function;
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::schemas::{self, Status, Uuid};

/// A function with all its slots
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Function)]
pub(crate) struct FunctionDetail {
    #[schema(value_type = schemas::FunctionDefinition)]
    definition: FunctionDefinition,
    /// All slots, newest revision first
    backends: Vec<FunctionSlot>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FunctionSlot {
    #[schema(value_type = schemas::Backend)]
    backend: Backend,
    #[schema(value_type = Status)]
    status: &'static str,
    /// Why it failed, or what it waits for
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
    /// The revision of the definition it runs
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = u64, required = false)]
    revision: Option<Revision>,
    /// Whether requests go to it; a new revision is routed once all of it has run
    routed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    created_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    started_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    changed_ms: Option<u64>,
}

/// Some functions, in the order of their ids
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FunctionPage {
    pub(super) functions: Vec<FunctionSummary>,
    /// The `after` of the next page; null on the last
    #[schema(value_type = Option<Uuid>, required = true)]
    pub(super) next: Option<FunctionId>,
    /// Functions of this page whose records cannot be read
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Uuid>)]
    pub(super) unreadable: Vec<FunctionId>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct FunctionSummary {
    #[schema(value_type = Uuid)]
    id: FunctionId,
    #[schema(value_type = String)]
    image: ImageReference,
    #[schema(value_type = schemas::InvokeMode)]
    invoke_mode: InvokeMode,
    /// Hostnames that lead to the function, besides /invoke/{id}
    #[schema(value_type = Vec<schemas::Route>, max_items = 64)]
    routes: Vec<Route>,
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = Vec<schemas::Backend>)]
    backends: Vec<Backend>,
    created_ms: u64,
    updated_ms: u64,
}

pub(super) fn function_detail(
    function: Function,
    slots: Vec<(Backend, ContainerRecord)>,
) -> FunctionDetail {
    let assigned: BTreeSet<Backend> = slots.iter().map(|(slot, _)| *slot).collect();
    let routed: BTreeSet<Backend> = function.backends.iter().copied().collect();
    let mut backends: Vec<FunctionSlot> = slots
        .into_iter()
        .map(|(slot, record)| assigned_slot(slot, record, routed.contains(&slot)))
        .collect();
    backends.extend(
        routed
            .difference(&assigned)
            .map(|slot| unassigned_slot(*slot)),
    );
    FunctionDetail {
        definition: function.record.definition,
        backends,
    }
}

fn assigned_slot(slot: Backend, record: ContainerRecord, routed: bool) -> FunctionSlot {
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
fn unassigned_slot(slot: Backend) -> FunctionSlot {
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

pub(super) fn function_summary(function: Function) -> FunctionSummary {
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
