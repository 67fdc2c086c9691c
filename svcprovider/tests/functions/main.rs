//! The API for functions, over sockets that were really handed over; the engines are in memory.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod attach;
mod blob;
mod fakes;
mod harness;
mod identity;
mod kv;
mod memory;
mod metrics;
mod secret;
mod start;
