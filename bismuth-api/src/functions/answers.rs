//! JSON representations of functions and their slots.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bismuth_model::{
    Backend, ContainerId, ContainerRecord, ContainerState, FunctionDefinition, FunctionId,
    ImageReference, InvokeMode, Revision, RevisionFate, Route, Slot, SlotRole,
};
use bismuth_registry::{Deployment, Function};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::schemas::{self, Status, Uuid};

/// A function with all its slots
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Function)]
pub(crate) struct FunctionDetail {
    /// What serves
    #[schema(value_type = schemas::FunctionDefinition)]
    definition: FunctionDefinition,
    /// What is to serve, while that is another revision
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::FunctionDefinition, required = false)]
    wanted: Option<FunctionDefinition>,
    /// All slots: of the wanted revision, of the one that serves, then the others
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
    /// What it is for
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = schemas::SlotRole, required = false)]
    role: Option<SlotRole>,
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

/// A function as it stands: its slots with their records, where there are any, those of its nodes that are alive, what became
/// of the wanted revision, and the definition that serves if it is known and not the wanted one.
pub(super) fn function_detail(
    deployment: Deployment,
    records: Vec<Option<ContainerRecord>>,
    alive: &BTreeSet<Ipv4Addr>,
    (fate, serving): (RevisionFate, Option<FunctionDefinition>),
) -> FunctionDetail {
    let routed: BTreeSet<Backend> = deployment.backends().into_iter().collect();
    let newest = (deployment.wanted.revision, deployment.serving.revision());
    let mut slots: Vec<(Slot, Option<ContainerRecord>)> =
        deployment.slots.iter().copied().zip(records).collect();
    slots.sort_by_key(|(slot, _)| {
        (
            slot.revision != newest.0,
            Some(slot.revision) != newest.1,
            slot.role != SlotRole::Active,
            slot.role == SlotRole::Leaving,
        )
    });
    let mut backends = Vec::with_capacity(slots.len());
    if Some(newest.0) != newest.1 && slots.iter().all(|(slot, _)| slot.revision != newest.0) {
        let (status, reason) = match fate {
            RevisionFate::Failed { reason } => ("Failed", Some(reason)),
            RevisionFate::Pending | RevisionFate::Proven => ("Starting", None),
        };
        backends.push(FunctionSlot {
            status,
            reason,
            ..unplaced_slot(newest.0)
        });
    }
    let shown = slots.into_iter().map(|(slot, record)| {
        let routed = routed.contains(&slot.backend);
        let shown = function_slot(slot, record, routed, newest);
        if alive.contains(&slot.backend.ip) {
            shown
        } else {
            lost_slot(shown)
        }
    });
    backends.extend(shown);
    let wanted = deployment.wanted.definition;
    let (definition, wanted) = match serving {
        Some(serving) => (serving, Some(wanted)),
        None => (wanted, None),
    };
    FunctionDetail {
        definition,
        wanted,
        backends,
    }
}

fn function_slot(
    slot: Slot,
    record: Option<ContainerRecord>,
    routed: bool,
    (wanted, serving): (Revision, Option<Revision>),
) -> FunctionSlot {
    let Some(ContainerRecord { status, .. }) = record else {
        return unassigned_slot(slot, routed);
    };
    // It has run; the revision has not, before requests go to it.
    let awaits_switch = !routed && slot.revision == wanted && Some(wanted) != serving;
    let state = match status.state {
        ContainerState::Failed => ContainerState::Failed,
        _ if awaits_switch => ContainerState::Starting,
        state => state,
    };
    FunctionSlot {
        backend: slot.backend,
        status: state.public_name(),
        reason: status.reason,
        revision: Some(slot.revision),
        routed,
        role: Some(slot.role),
        pid: status.pid,
        created_ms: Some(status.created_ms),
        started_ms: status.started_ms,
        changed_ms: Some(status.changed_ms),
    }
}

/// A slot of a node that is not alive: nobody knows how it does.
fn lost_slot(slot: FunctionSlot) -> FunctionSlot {
    let was = slot.status;
    FunctionSlot {
        status: "Unknown",
        reason: Some(format!("its node is not alive; it was {was}")),
        ..slot
    }
}

/// A slot that no node was told of: a contradiction that only hands can make.
fn unassigned_slot(slot: Slot, routed: bool) -> FunctionSlot {
    let reason = "it is assigned to no node; `bismuthctl consistency` mends it";
    FunctionSlot {
        status: "Failed",
        reason: Some(reason.to_owned()),
        routed,
        role: Some(slot.role),
        backend: slot.backend,
        ..unplaced_slot(slot.revision)
    }
}

/// A revision that has no slots yet.
fn unplaced_slot(revision: Revision) -> FunctionSlot {
    FunctionSlot {
        backend: Backend {
            ip: Ipv4Addr::UNSPECIFIED,
            container_id: ContainerId::from_bytes([0; 16]),
        },
        status: ContainerState::Starting.public_name(),
        reason: None,
        revision: Some(revision),
        routed: false,
        role: None,
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
