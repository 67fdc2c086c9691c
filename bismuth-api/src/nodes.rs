//! Nodes over HTTP.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use bismuth_model::{ContainerId, ContainerRecord, FunctionId, Revision};
use bismuth_registry::{Error, Node};
use http::StatusCode;
use serde::Serialize;

use crate::problem::Failure;
use crate::schedule::Need;
use crate::state::Api;

/// All nodes, sorted by address.
#[derive(Debug, Serialize)]
pub(crate) struct Nodes {
    nodes: Vec<NodeSummary>,
}

/// What the operator says of a node, what it says of itself, and what is assigned to it.
#[derive(Debug, Serialize)]
pub(crate) struct NodeSummary {
    ip: Ipv4Addr,
    schedulable: bool,
    alive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    cores: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    versions: BTreeMap<String, String>,
    /// Slots, and what they may use together.
    containers: usize,
    assigned_cpu: f64,
    assigned_memory: u64,
}

/// One node with its slots.
#[derive(Debug, Serialize)]
pub(crate) struct NodeDetail {
    #[serde(flatten)]
    node: NodeSummary,
    slots: Vec<NodeSlot>,
    /// Slots whose records cannot be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unreadable: Vec<ContainerId>,
}

#[derive(Debug, Serialize)]
struct NodeSlot {
    container_id: ContainerId,
    function_id: FunctionId,
    revision: Revision,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `GET /node`.
pub(crate) async fn list(State(api): State<Api>) -> Result<Json<Nodes>, Failure> {
    let read = async {
        let nodes = api.registry.list_nodes().await?;
        let assigned = api.placing.assigned(&nodes).await?;
        Ok(nodes
            .into_iter()
            .zip(assigned)
            .map(|(node, assigned)| shown(&node, assigned))
            .collect())
    };
    let nodes = api.ask("list the nodes", read).await?;
    Ok(Json(Nodes { nodes }))
}

/// `GET /node/{ip}`.
pub(crate) async fn get(
    State(api): State<Api>,
    ip: Result<Path<String>, PathRejection>,
) -> Result<Json<NodeDetail>, Failure> {
    let ip = address(ip)?;
    let read = async {
        let node = api
            .registry
            .node(ip)
            .await?
            .ok_or(Error::NodeUnknown { ip })?;
        let assigned = api.placing.assigned(std::slice::from_ref(&node)).await?;
        Ok((node, assigned.into_iter().next().unwrap_or_default()))
    };
    let (node, assigned) = api.ask(&format!("read node {ip}"), read).await?;
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

fn shown(node: &Node, assigned: Need) -> NodeSummary {
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

fn address(path: Result<Path<String>, PathRejection>) -> Result<Ipv4Addr, Failure> {
    let malformed = |detail: String| {
        Failure::new(StatusCode::NOT_FOUND, "malformed_address", detail).field("ip")
    };
    let Path(text) = path.map_err(|rejection| malformed(rejection.body_text()))?;
    text.parse().map_err(|_| {
        malformed(format!(
            "{:?} is not an IPv4 address",
            text.chars().take(64).collect::<String>()
        ))
    })
}
