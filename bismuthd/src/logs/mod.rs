//! The logs of containers: their output, kept in rotated files and served over HTTP.
//!
//! ```text
//!  program ─► pipe ─► shim ─► FIFO ─► copier ─► CRI lines ─► {container}/0.log, 1.log, 2.log
//!                                                               │
//!                                          GET /logs/{container} ◄┘ tail, since, follow
//! ```
//!
//! The FIFO is held open for reading and writing by the copier, so that neither end ever sees the
//! other vanish; while bismuthd restarts, the kernel's pipe buffer holds what is printed and then
//! the program waits. The format is that of the Kubernetes container runtime interface, so that
//! the field's log shippers read the files as they are.

pub mod copier;
pub mod cri;
pub mod read;
pub mod rotate;
pub mod serve;
pub mod thread;
