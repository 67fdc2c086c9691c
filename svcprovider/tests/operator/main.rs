//! The operator API through its client, on the embedded engines.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod broken;
mod calls;
mod daemon;
mod harness;
mod idle_connections;
