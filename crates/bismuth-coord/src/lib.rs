//! A versioned tree with watches, in ZooKeeper or in memory: the coordination service of Bismuth's programs.
//!
//! ```text
//!             Tree (trait)  get · children · set · commit · watch
//!              ╱        ╲
//!      zk::ZkTree     memory::MemoryTree
//!      ZooKeeper      the fake for tests: same answers, with fault injection
//! ```
//!
//! What the nodes mean is not known here; that is `bismuth-registry`'s business. One conformance suite
//! (`tests/conformance.rs`) runs against both implementations.
//!
//! The happy path of a reader:
//! 1. [`Tree::watch`] a path, so that nothing from now on is missed;
//! 2. [`Tree::children`] and [`Tree::get_many`], building a new snapshot beside the old one;
//! 3. swap the snapshot in whole;
//! 4. on every [`Event`] re-read what it names; on [`Event::Lost`] go to 2.
//!
//! The happy path of a writer: read, decide, [`Tree::commit`] with the versions that were read. On
//! [`Error::is_conflict`] start over; on [`Error::UnknownOutcome`] re-read first.

mod error;
pub mod memory;
pub mod path;
mod servers;
mod tree;
mod watch;
pub mod zk;

pub use error::{Cause, Error, Result};
pub use memory::MemoryTree;
pub use servers::Servers;
pub use tree::{
    CreateMode, MAX_DATA_BYTES, MAX_TRANSACTION_BYTES, Op, SessionState, Tree, Version, Versioned,
};
pub use watch::{Event, Watch};
pub use zk::{ConnectOptions, ZkTree};
