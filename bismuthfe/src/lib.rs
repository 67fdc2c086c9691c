//! bismuthfe: the public HTTP reverse proxy in front of the worker nodes.
//!
//! ```text
//!  registry ── watch ──► TableUpdater ──► RoutingTable ──► ArcSwap ──┐       control runtime
//!                          └──► snapshot file                         │
//! ────────────────────────────────────────────────────────────────────┼─────────────────────
//!  client ─► worker ─► resolve (pure) ─► select backend (pure) ─► forward ─► bismuthd    one per core
//!                         ▲────────── cached table ◄──────────────────┘
//! ```
//!
//! The happy path of a request:
//! 1. A `worker` accepts the connection on its own thread and reads the head within limits.
//! 2. `resolve` finds the function: `Host` first, then `/invoke/{id}`, in the worker's cached `table`.
//! 3. `backend_selection` chooses a slot: the first in an order every frontend computes alike that has room.
//! 4. `proxy` forwards over a pooled connection and streams both ways; what was not executed is tried on the
//!    next slot.
//!
//! Nothing here touches ZooKeeper or the disk while a request is in flight.

mod backend_selection;
mod config;
mod metrics;
mod proxy;
mod resolve;
mod retry;
mod service;
mod snapshot;
mod table;
mod table_updater;
mod upstream;
mod worker;

pub use config::{Args, Config};
pub use service::Service;
pub use snapshot::earlier as saved_routing;

/// The name under which this program speaks in problems and logs.
const COMPONENT: &str = "bismuthfe";
