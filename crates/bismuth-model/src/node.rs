//! Nodes: machines that run containers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What the operator says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Whether new containers may be placed on it.
    pub schedulable: bool,
}

/// What a living node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Logical processors.
    pub cores: u32,
    /// Physical memory in bytes.
    pub memory: u64,
    /// Versions of what runs there, by name: `bismuthd`, `containerd`, `kernel`, …
    pub versions: BTreeMap<String, String>,
    /// Written once to the node's state directory: tells this node's own stale session from
    /// another machine that claims the same address.
    pub epoch: String,
}
