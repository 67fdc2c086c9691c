//! Containers and tasks on a real containerd.

mod crashes;
mod harness;
mod lifecycle;
