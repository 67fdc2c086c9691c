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
pub mod http;
pub mod metrics;
pub mod operator;
mod service;
mod watch;

pub use config::{Args, ObjectsUrl, RecordsUrl};
pub use service::{Service, StartError};
