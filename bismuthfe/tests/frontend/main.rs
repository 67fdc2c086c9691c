//! The frontend on real sockets, with a given routing table and scripted nodes.

// Clippy knows test functions, not the harness beside them.
#![allow(clippy::unwrap_used)]

mod harness;
mod lifecycle;
mod retries;
mod routing;
