//! bismuthd: the daemon of a worker node.
//!
//! It makes the containers of the node match what ZooKeeper assigns to it, starts them when needed, and forwards requests
//! into them.
//!
//! ```text
//!                    ┌──────────────────────────── control runtime ─────────────────────────────┐
//!  ZooKeeper ──watch─┼─► node::reconcile ─► node::driver (one per container) ─► node::launch ───┼─► containerd, kernel
//!            ◄─status┼── node::status ◄────────┘ │                                │             │
//!                    └───────────────────────────┼──────────────┬─────────────────┼─────────────┘
//!                                          slot table      svcprovider::sockets ─► svcprovider   logs (own thread)
//!                    ┌───────────────────────────┼───────── one per core ─────────┼─────────────┐
//!  bismuthfe ──HTTP──┼─► invoke::worker ─► admission ─► ready? ─► server │ exec ──┼─────────────┼─► the program
//!                    └────────────────────────────────────────────────────────────┘
//! ```
//!
//! It never kills a healthy container because *it* restarted, and nothing on the path of a request
//! waits for ZooKeeper.

mod config;
mod facts;
mod garbage_collection;
mod invoke;
mod logs;
mod node;
mod node_registration;
mod service;
mod svcprovider;

pub use config::Args;
pub use service::Service;
