//! The program as it is run, against a real ZooKeeper, a real containerd, a real svcprovider, and daemons played by tests.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod blobs;
mod daemons;
mod docs;
mod harness;
mod image;
mod kv;
mod provider;
mod purge;
mod secrets;
mod usage;
mod zookeeper;
