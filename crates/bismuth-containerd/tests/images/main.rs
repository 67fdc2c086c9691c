//! Images on a real containerd, from a real registry and from a faulty one.
#![allow(clippy::unwrap_used)]

mod failures;
mod faulty_registry;
mod garbage;
mod harness;
mod import;
mod pull;
mod tls;
