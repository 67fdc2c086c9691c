//! The registry on a tree in memory.

#![allow(clippy::unwrap_used)] // Also outside of test functions: what fails here fails the test.

mod announce;
mod assignment;
mod audit;
mod fixture;
mod functions;
mod groups;
mod nodes;
mod routing;
mod store;
mod writers;
