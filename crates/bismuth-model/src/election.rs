//! Records of the election: which replica of the control plane leads, and in which term.

use serde::{Deserialize, Serialize};

/// The replica that leads, as its ephemeral znode says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderRecord {
    /// How operators know it: its machine and the address that it listens on.
    pub name: String,
    /// The number of its term.
    pub term: u64,
    /// Since when it leads: milliseconds since 1970, by its own clock.
    pub since_ms: u64,
}

/// The latest term, for operators: what fences a leader's writes is the version of the znode that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermRecord {
    /// Counted from 1.
    pub number: u64,
    /// The replica that leads or led in it.
    pub name: String,
    /// When it began: milliseconds since 1970, by that replica's clock.
    pub since_ms: u64,
}
