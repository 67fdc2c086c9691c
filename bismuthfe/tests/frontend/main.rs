//! The frontend as a process would run it: real sockets, a given routing, scripted nodes.

// Clippy knows test functions, not the harness beside them.
#![allow(clippy::unwrap_used)]

mod harness;
mod lifecycle;
mod retries;
mod routing;
