//! Real servers for tests: ZooKeeper, containerd, an OCI registry, PostgreSQL, S3, and our own programs.
//!
//! ```text
//!  test process ── owns ──► run directory  /tmp/bismuth-test/<run>   (a shared mount, one lock)
//!      │                        ├── zookeeper-0/    ◄─ ZooKeeper::start()
//!      │ spawns                 ├── containerd-1/   ◄─ Containerd::start()   private mount namespace
//!      ▼                        ├── registry-2/     ◄─ Registry::start()
//!   children, each marked       └── cluster-3/      ◄─ Cluster::builder().start()
//!   with the run directory
//!      ▲
//!      └── killed by the reaper, a small shell that notices that the test process has ended
//! ```
//!
//! The happy path of a test:
//!
//! 1. start what it needs; every server has its own directory and a port nobody else has;
//! 2. act, and wait with [`eventually()`] on conditions that can say what is missing;
//! 3. drop the servers: processes die, mounts and cgroups go, directories are deleted.
//!
//! A test that is killed runs no destructors. Its processes die all the same ([`process`]), and the
//! next test process that starts anything sweeps what is left on disk ([`run`]).
//!
//! Everything here needs root, as the programs under test do.

pub mod certificate;
pub mod cluster;
pub mod containerd;
pub mod daemon;
pub mod eventually;
pub mod held_resources;
pub mod http;
pub mod image;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod registry;
pub mod run;
pub mod s3;
pub mod server;
pub mod stub;
mod sweep;
pub mod zookeeper;

pub use certificate::Certificate;
pub use cluster::Cluster;
pub use containerd::Containerd;
pub use daemon::Daemon;
pub use eventually::eventually;
pub use held_resources::HeldResources;
pub use image::Image;
pub use postgres::PostgreSql;
pub use process::Process;
pub use registry::Registry;
pub use s3::S3Server;
pub use stub::Stub;
pub use zookeeper::ZooKeeper;
