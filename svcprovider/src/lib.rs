//! Keys, blobs and secrets for the functions of one node.
//!
//! ```text
//!   container's socket ─► caller ─► token ─► rate ─► /kv  /blob  /secrets ─┬─► records   embedded │ PostgreSQL
//!   operator's socket  ─► token ─────────────────────────────────────────┘     ▲
//!                                                        blobs ─► index ───────┘
//!                                                          └────► objects   files │ S3
//! ```

pub mod attach;
mod claim;
mod config;
mod engines;
pub mod http;
pub mod metrics;
pub mod operator;
mod service;
mod watch;

pub use config::{Args, ObjectsUrl, RecordsUrl};
pub use service::{Service, StartError};
