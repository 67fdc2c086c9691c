//! Failures end to end: parts of Bismuth die, are unreachable, or come back.
//!
//! Each runs on a cluster of its own: real ZooKeeper, containerd, registry, and our programs.

#[path = "../support/mod.rs"]
mod support;

mod bismuthd_dies;
mod containerd_dies;
mod nodes;
mod programs_die;
mod registry_is_away;
mod zookeeper_is_away;
