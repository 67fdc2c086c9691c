//! What serves: the part of a function that frontends need, and the definitions that were deployed.

use serde::{Deserialize, Serialize};

use crate::{Affinity, FunctionDefinition, FunctionRecord, Hostname, Revision};

/// What a frontend needs to know of a function, beside its backend list. Written in one transaction with the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// Requests one container handles at a time.
    pub concurrency: u32,
    /// Milliseconds until the head of the response must have come.
    pub timeout_ms: u64,
    /// Milliseconds of silence in either direction after which a stream is ended.
    pub idle_timeout_ms: u64,
    /// Milliseconds from starting the program until it answers.
    pub startup_timeout_ms: u64,
    /// What keeps a client on one container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// The claimed hostnames that route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Hostname>,
    /// Which revisions the backends are of; covers the backend list in its order.
    pub groups: Vec<ServingGroup>,
    /// The version of the backend list that this was written with. With another one, one of the two was read too early.
    pub backends_version: i32,
    /// Whether it was taken out of service on purpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withdrawn: bool,
}

/// The backends of one revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServingGroup {
    /// The revision.
    pub revision: Revision,
    /// Its share of the requests, in proportion to the weights of all groups.
    pub weight: u32,
    /// How many backends of the list, from where the group before ends, are active.
    pub active: u32,
    /// How many after these are standbys.
    pub standby: u32,
}

impl Serving {
    /// The newest revision that serves, if any does.
    #[must_use]
    pub fn revision(&self) -> Option<Revision> {
        self.groups.iter().map(|group| group.revision).max()
    }

    /// Takes over what frontends need from the definition that serves.
    pub fn set_definition(&mut self, definition: &FunctionDefinition) {
        self.concurrency = definition.concurrency;
        self.timeout_ms = definition.timeout_ms;
        self.idle_timeout_ms = definition.idle_timeout_ms;
        self.startup_timeout_ms = definition.startup_timeout_ms;
        self.affinity.clone_from(&definition.affinity);
        let hostnames = definition.routes.iter().map(|route| &route.hostname);
        self.hostnames = hostnames.cloned().collect();
    }
}

/// One definition that was deployed. The definition never changes; its fate does until it is proven.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RevisionRecord {
    /// The definition.
    pub definition: FunctionDefinition,
    /// When it was written, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// What became of it.
    pub fate: RevisionFate,
}

impl RevisionRecord {
    /// The newest revision of a function, before anything became of it.
    #[must_use]
    pub fn first_written(function: &FunctionRecord) -> Self {
        Self {
            definition: function.definition.clone(),
            created_ms: function.updated_ms,
            fate: RevisionFate::Pending,
        }
    }
}

/// What became of a revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RevisionFate {
    /// It has not run yet.
    Pending,
    /// It has run, and requests were sent to it.
    Proven,
    /// It could not be started, or was given up.
    Failed {
        /// Why.
        reason: String,
    },
}
