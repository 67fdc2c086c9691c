//! The API over HTTP, on an in-memory registry, with fake nodes.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod deployment;
mod document;
mod functions;
mod harness;
mod logs;
mod process;
mod schema;
mod secrets;
