//! The crate over real sockets: a proxy made of its parts between a client and an upstream that send raw bytes.

// Clippy knows test functions, not the harness beside them.
#![allow(clippy::unwrap_used)]

mod ending;
mod harness;
mod limits;
mod smuggling;
mod streaming;
mod upgrade;
