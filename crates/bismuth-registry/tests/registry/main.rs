//! The registry on a tree in memory.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod assignment;
mod audit;
mod deployment;
mod election;
mod fixture;
mod functions;
mod groups;
mod node_registration;
mod nodes;
mod routing;
mod store_claim;
mod writers;
