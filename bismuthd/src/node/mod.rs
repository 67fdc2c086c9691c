//! The control side of a node: makes its containers match its assignment.
//!
//! ```text
//!  ZooKeeper ─► assignment ─► reconcile ── plan ──► one driver per container ─► launcher ─► containerd
//!               (or disk)        │                        │      │                 └─► sandbox
//!                                ▼                        │      └─► status reporter ─► ZooKeeper
//!                            slot table ◄── phase ────────┘
//!                                │
//!                             workers (requests)
//! ```

pub mod admission;
pub mod driver;
pub mod launch;
pub mod plan;
pub mod program;
pub mod reconcile;
pub mod slot;
pub mod state_dir;
pub mod status;

#[cfg(test)]
mod fakes;
