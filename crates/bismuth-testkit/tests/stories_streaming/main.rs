//! End-to-end stories: what a function's clients and its deployer see, through all the real parts.
//!
//! ```text
//!  story ──► bismuthfe ──► bismuthd ──► container       bulk, streams, exec, routing, redeploy
//!    └─────► bismuth-api ─► bismuthd ─► log files       logs
//!    └─────► bismuthctl ──► ZooKeeper                   five_lines
//! ```

#[path = "../common/mod.rs"]
mod common;

mod bulk;
mod exec;
mod five_lines;
mod logs;
mod redeploy;
mod routing;
mod streams;
