//! State and status of a container.
//!
//! ```text
//!  assigned ─► pulling ─► starting ─► running ─► paused ─► stopped
//!                 │           │          ▲ ▲        │         │
//!                 └───────────┴► failed ─┘ └────────┴─────────┘   a request brings it back up
//! ```

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{FunctionId, Revision};

/// Where in its life a container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ContainerState {
    /// A node was told to serve it and has not begun.
    Assigned,
    /// Its image is being pulled.
    Pulling,
    /// Its program is being started.
    Starting,
    /// It answers requests.
    Running,
    /// Frozen; a request thaws it.
    Paused,
    /// Not running, and nothing is wrong; a request starts it.
    Stopped,
    /// It could not be started, or died; the reason says why. A request tries again after a backoff.
    Failed,
}

/// A word that names no state.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a container state")]
pub struct UnknownState(String);

impl ContainerState {
    /// All states, in the order of a container's life.
    pub const ALL: [Self; 7] = [
        Self::Assigned,
        Self::Pulling,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopped,
        Self::Failed,
    ];

    /// The exact state's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Assigned => "Assigned",
            Self::Pulling => "Pulling",
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Paused => "Paused",
            Self::Stopped => "Stopped",
            Self::Failed => "Failed",
        }
    }

    /// Whether the program has run: that proves its revision, also when it is idle since.
    pub const fn has_run(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Stopped)
    }

    /// The name shown over HTTP, where all that comes before `Running` is `Starting`.
    pub const fn public_name(self) -> &'static str {
        match self {
            Self::Assigned | Self::Pulling => "Starting",
            other => other.name(),
        }
    }
}

impl fmt::Display for ContainerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ContainerState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        let state = Self::ALL.into_iter().find(|s| s.name() == text);
        state.ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// What a node says about one of its containers. Times are milliseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Where in its life it is.
    pub state: ContainerState,
    /// Why it failed, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its address inside the node, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// The program's process id on the node, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When the slot was assigned.
    pub created_ms: u64,
    /// When the program was last started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When this status last changed.
    pub changed_ms: u64,
}

impl ContainerStatus {
    /// The status of a slot that no node has looked at yet.
    pub fn assigned(now_ms: u64) -> Self {
        Self {
            state: ContainerState::Assigned,
            reason: None,
            ip: None,
            pid: None,
            created_ms: now_ms,
            started_ms: None,
            changed_ms: now_ms,
        }
    }
}

/// One slot as ZooKeeper holds it: whose it is, and how it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// The function it serves.
    pub function_id: FunctionId,
    /// The revision of the definition it runs.
    pub revision: Revision,
    /// How it does.
    pub status: ContainerStatus,
}
