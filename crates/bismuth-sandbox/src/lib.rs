//! Namespaces, root filesystems, cgroups and processes of containers, by system calls.
//!
//! What to do is decided by its callers.
//!
//! ```text
//!   state directory (shared mount, mounts.rs)
//!     └─ {container}/
//!          ├─ user   ◄── nsfs pin ── user namespace ──┐  namespaces.rs
//!          ├─ net    ◄── nsfs pin ── net namespace ◄──┘  owned by the user namespace
//!          └─ root   ◄── overlay (rootfs.rs)
//!                         ├─ upper: tmpfs of `disk_bytes`, owned by the range's root
//!                         └─ lower: one id-mapped clone per image layer
//!   /sys/fs/cgroup/…/bismuth/{container}                  cgroup.rs (made by the OCI runtime)
//! ```
//!
//! The happy path of one container:
//!
//! 1. [`ids::IdAllocator`] gives the function its own range of host user ids.
//! 2. [`namespaces::Namespaces::create`] makes the user namespace and, owned by it, the network
//!    namespace, and pins both so that they outlive this process.
//! 3. [`rootfs::mount`] joins the image's layers and an empty upper directory.
//! 4. The OCI runtime starts the program in them; [`netns::tcp_socket`] makes the sockets that
//!    reach it; [`process::Process`] watches it; [`cgroup::Cgroup`] measures and freezes it.
//! 5. [`cgroup::Cgroup::remove`], [`rootfs::unmount`] and
//!    [`namespaces::Namespaces::remove`] undo it, each of them repeatable.
//!
//! Every create undoes what it did when it fails half-way. Every remove tries everything, treats
//! what is already gone as done, and returns all errors as [`TeardownErrors`]. Functions are synchronous
//! and safe to call from any thread; each says what it costs.
//!
//! Needs root, Linux 5.19 (id-mapped mounts as overlay layers), and is fastest from 6.15 (overlay
//! layers given as descriptors).

// System calls without a safe wrapper live here, each with its SAFETY line.
#![allow(unsafe_code)]

pub mod cgroup;
pub mod ids;
pub mod mounts;
pub mod namespaces;
pub mod netns;
mod path_error;
pub mod process;
pub mod rootfs;
mod sys;
mod teardown_errors;
pub mod timer;

pub use ids::IdRange;
pub use path_error::PathError;
pub use teardown_errors::TeardownErrors;
