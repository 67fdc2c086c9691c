//! The real `bismuth-init`, run as a plain process and as process 1.
//!
//! These need root, `busybox`, and `unshare` and `setpriv` of util-linux.

mod faults;
mod harness;
mod lifetime;
mod namespace;
mod programs;
