//! `GET /node` and `GET /node/{ip}`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use bismuth_model::{ContainerId, ContainerRecord, FunctionId, Revision};
use bismuth_registry::{Error, Node};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::responses::{PROBLEM_JSON, ProblemBody, ReadFails};
use crate::openapi::schemas::{Ipv4, Status, Uuid};
use crate::placement::Resources;
use crate::problem::Problem;
use crate::state::AppState;

/// All nodes, in the order of their addresses
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Nodes {
    nodes: Vec<NodeSummary>,
}

/// What the operator says of a node, what it says of itself, and what is assigned to it
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
pub(crate) struct NodeSummary {
    #[schema(value_type = Ipv4)]
    ip: Ipv4Addr,
    /// Whether new slots may be placed on it
    schedulable: bool,
    alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    cores: Option<u32>,
    /// Bytes
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    versions: BTreeMap<String, String>,
    /// Slots assigned to it
    containers: usize,
    /// Cores that they may use together
    assigned_cpu: f64,
    /// Bytes that they may use together
    assigned_memory: u64,
}

/// A node with its slots
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodeDetail {
    #[serde(flatten)]
    node: NodeSummary,
    slots: Vec<NodeSlot>,
    /// Slots whose records cannot be read
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Uuid>)]
    unreadable: Vec<ContainerId>,
}

#[derive(Debug, Serialize, ToSchema)]
struct NodeSlot {
    #[schema(value_type = Uuid)]
    container_id: ContainerId,
    #[schema(value_type = Uuid)]
    function_id: FunctionId,
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = Status)]
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reason: Option<String>,
}

/// All nodes, in the order of their addresses
#[utoipa::path(
    get,
    path = "/node",
    operation_id = "listNodes",
    responses((status = 200, description = "The nodes", body = Nodes), ReadFails)
)]
pub(crate) async fn list(State(api): State<AppState>) -> Result<Json<Nodes>, Problem> {
    let read = async {
        let nodes = api.registry.list_nodes().await?;
        let assigned = api.scheduler.assigned(&nodes).await?;
        Ok(nodes
            .into_iter()
            .zip(assigned)
            .map(|(node, assigned)| shown(&node, assigned))
            .collect())
    };
    let nodes = api.read("list the nodes", read).await?;
    Ok(Json(Nodes { nodes }))
}

/// A node and its slots
#[utoipa::path(
    get,
    path = "/node/{ip}",
    operation_id = "getNode",
    params(("ip" = Ipv4, Path, description = "The node's address")),
    responses(
        (status = 200, description = "The node", body = NodeDetail),
        (
            status = 404,
            description = "No such node (`unknown_node`), or not an address (`malformed_address`)",
            body = ProblemBody,
            content_type = PROBLEM_JSON,
        ),
        ReadFails,
    )
)]
pub(crate) async fn get(
    State(api): State<AppState>,
    ip: Result<Path<String>, PathRejection>,
) -> Result<Json<NodeDetail>, Problem> {
    let ip = address(ip)?;
    let read = async {
        let node = api
            .registry
            .node(ip)
            .await?
            .ok_or(Error::NodeUnknown { ip })?;
        let assigned = api.scheduler.assigned(std::slice::from_ref(&node)).await?;
        Ok((node, assigned.into_iter().next().unwrap_or_default()))
    };
    let (node, assigned) = api.read(&format!("read node {ip}"), read).await?;
    Ok(Json(NodeDetail {
        node: shown(&node, assigned),
        slots: node
            .containers
            .into_iter()
            .map(|(id, record)| slot(id, record))
            .collect(),
        unreadable: node.unreadable,
    }))
}

fn shown(node: &Node, assigned: Resources) -> NodeSummary {
    let facts = node.facts.as_ref();
    NodeSummary {
        ip: node.ip,
        schedulable: node.schedulable,
        alive: node.is_alive(),
        cores: facts.map(|facts| facts.cores),
        memory: facts.map(|facts| facts.memory),
        versions: facts
            .map(|facts| facts.versions.clone())
            .unwrap_or_default(),
        containers: node.containers.len() + node.unreadable.len(),
        assigned_cpu: assigned.cpu,
        assigned_memory: assigned.memory,
    }
}

fn slot(container_id: ContainerId, record: ContainerRecord) -> NodeSlot {
    NodeSlot {
        container_id,
        function_id: record.function_id,
        revision: record.revision,
        status: record.status.state.public_name(),
        reason: record.status.reason,
    }
}

fn address(path: Result<Path<String>, PathRejection>) -> Result<Ipv4Addr, Problem> {
    let malformed = |detail: String| {
        Problem::new(StatusCode::NOT_FOUND, "malformed_address", detail).field("ip")
    };
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse().map_err(|_| {
        malformed(format!(
            "{:?} is not an IPv4 address",
            text.chars().take(64).collect::<String>()
        ))
    })
}
