//! Data model: function definitions, backends, routes, nodes, container states.
//!
//! ```text
//!  FunctionDefinition ──(a revision)──► FunctionRecord          what the deployer wants
//!         │ routes                          │
//!         ▼                                 ▼ one slot per instance
//!      Hostname                     Backend { ip, container id }  where the frontend sends requests
//!                                           │
//!                                           ▼
//!                                   ContainerRecord { status }    how the node says it does
//!
//!  RevisionRecord: a definition that was deployed    Slot: what a container is for    Serving: what frontends need
//! ```
//!
//! This crate is pure: no I/O, no clock, no async. Every type is checked when it is made, so that
//! code which holds a [`Hostname`] or a validated [`FunctionDefinition`] need not check again.

mod backend;
mod container;
mod definition;
mod election;
mod environment;
mod hostname;
mod id;
mod image;
mod invoke_mode;
mod limits;
mod node;
mod secret_use;
mod service_group;
mod serving;
mod slot;
mod store_claim;
mod text;

pub use backend::{BACKEND_BYTES, Backend, BackendsError};
pub use container::{ContainerRecord, ContainerState, ContainerStatus, UnknownState};
pub use definition::{
    Affinity, DefinitionError, DefinitionErrorKind, Egress, FunctionDefinition, FunctionRecord,
    Readiness, Repo, Route, ServiceQuotas,
};
pub use election::{LeaderRecord, TermRecord};
pub use environment::{Environment, EnvironmentError};
pub use hostname::{Hostname, HostnameError};
pub use id::{ContainerId, FunctionId, IdError, Revision};
pub use image::{ImageReference, ImageReferenceError};
pub use invoke_mode::{InvokeMode, InvokeModeError};
pub use limits::{DEFAULTS, Defaults, MAX_DEFINITION_BYTES};
pub use node::{NodeFacts, NodeRecord};
pub use secret_use::SecretUse;
pub use service_group::{ServiceGroup, ServiceGroupError};
pub use serving::{RevisionFate, RevisionRecord, Serving, ServingGroup};
pub use slot::{SLOT_BYTES, Slot, SlotRole, SlotsError};
pub use store_claim::StoreClaim;
