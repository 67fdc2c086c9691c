//! All access to containerd: containers, tasks, events, images and the OCI spec.
//!
//! ```text
//!                      ┌── client   one lazy connection per purpose; namespace, lease and deadline on every call
//!  bismuthd ──► Tasks ─┼── tasks    containers and tasks: create, start, kill, delete, list, teardown
//!          └─► Images ─┼── images   pull, unpack, keep and collect images
//!                      ├── events   exits and out-of-memory kills as they happen; `Lost` on any gap
//!                      ├── spec     the OCI runtime spec of one container, a pure function
//!                      └── fake     a scripted fake for the tests of those above
//! ```
//!
//! The happy path: [`Containerd::connect`] (never waits, heals by itself), `create_container`, `create_task`,
//! `start`, an `Exit` event, `teardown`.
//!
//! Works with containerd 1.6, 1.7 and 2.x: only services that 1.6 has are used.

pub mod client;
pub mod error;
pub mod events;
pub mod fake;
pub mod images;
pub mod spec;
pub mod tasks;

pub use client::{CallClass, Containerd, Deadlines, NamespacedChannel, ServerProcess, Version};
pub use error::{Error, Failure, Result};
pub use events::{TaskEvent, TaskEvents};
pub use tasks::{
    ContainerInfo, Exit, NewContainer, Stdio, TaskInfo, TaskStatus, Tasks, TeardownError,
};
