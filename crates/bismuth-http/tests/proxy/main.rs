//! The whole crate on real sockets: a proxy made of its parts between raw peers.

// Clippy knows test functions, not the harness beside them.
#![allow(clippy::unwrap_used)]

mod ending;
mod harness;
mod limits;
mod smuggling;
mod streaming;
mod upgrade;
