//! The API over real HTTP, on a registry in memory, with nodes played by the tests.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod deployment;
mod document;
mod functions;
mod harness;
mod logs;
mod process;
mod schema;
mod secrets;
