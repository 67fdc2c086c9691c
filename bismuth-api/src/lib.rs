//! bismuth-api: the control plane over HTTP.
//!
//! ```text
//!  deployer ──HTTP──► functions · nodes ──► placement (pure) ──► registry: one transaction ──► ZooKeeper
//!                         │     logs ─────► bismuthd of each node, merged by time                │ watch
//!                         │   secrets ─► svcprovider                                             │
//!                                                                                                │
//!  leader, one of all replicas ──────────► rollout: plan (pure) ──► switch, release  ◄───────────┘
//! ```
//!
//! The happy path of a redeploy:
//! 1. `PUT /function/{id}` writes the next revision and assigns its slots; requests go to the old ones;
//! 2. the nodes start the new containers once, to prove them;
//! 3. the `rollout` of the replica that leads sees them running, switches the routing in one transaction, and after a moment
//!    takes the old slots away, whose nodes drain them.
//!
//! It has no authentication: it belongs on loopback or on a network of deployers only. It is never on
//! the path of an invocation.

mod body;
mod config;
mod functions;
mod http_server;
mod idempotency;
mod leader;
mod logs;
mod metrics;
mod nodes;
mod openapi;
mod origin_check;
mod params;
mod placement;
mod problem;
mod purge;
mod readiness;
mod revisions;
mod rollout;
mod router;
mod scheduler;
mod secrets;
mod service;
mod state;
mod svcprovider;

pub use config::Args;
pub use router::document;
pub use service::Service;

/// Who says so, in every problem that this program answers with.
pub(crate) const COMPONENT: &str = "bismuth-api";
