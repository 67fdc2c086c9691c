//! Images on a real containerd, from a real registry and from one that misbehaves.
#![allow(clippy::unwrap_used)]

mod faulty;
mod garbage;
mod harness;
mod import;
mod pull;
mod tls;
mod trouble;
