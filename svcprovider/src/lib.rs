//! Keys, blobs and secrets over HTTP, for the functions of one node and for operators. What keeps them is bismuth-store.
//!
//! ```text
//!   container's socket ─► caller ─► token ─► rate ─► /kv  /blob  /secrets ─┬─► bismuth-store: records, blobs, secrets
//!   operator's socket  ─► token ───────────────────────────────────────────┘
//! ```

pub mod attach;
mod claim;
mod config;
mod engines;
mod file_error;
mod health_check;
pub mod http;
pub mod metrics;
pub mod operator;
mod service;

pub use config::{Args, ObjectsUrl, RecordsUrl};
pub use file_error::FileError;
pub use service::{Service, StartError};
