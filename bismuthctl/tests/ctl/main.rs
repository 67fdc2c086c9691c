//! bismuthctl as a process, against a real ZooKeeper, containerd and svcprovider, and fake daemons.

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
