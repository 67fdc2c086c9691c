//! The data path of a node: from a frontend's connection into a container and back.
//!
//! ```text
//!  worker (one per core: own runtime, listener, pool)
//!    accept ─► serve_connection ─► /invoke/{container}/… ─► slot? ─► admission ─► ready? ┬─► server: proxy
//!                                  /logs/{container}          │          │         │       └─► exec: one process
//!                                                            404        429     start, or why not
//! ```
//!
//! Nothing here waits for ZooKeeper, for the disk (but for reading logs), or for another worker.

pub mod cgi;
pub mod container;
pub mod exec;
pub mod init_client;
pub mod metrics;
pub mod problems;
pub mod server;
pub mod worker;
