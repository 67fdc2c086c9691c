//! The API over HTTP, on an in-memory registry, with fake nodes; and several of them as processes on a real ZooKeeper.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod deployment;
mod document;
mod failover;
mod functions;
mod harness;
mod logs;
mod process;
mod schema;
mod secrets;
