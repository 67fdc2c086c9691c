//! Keys, blobs and secrets for the functions of one node.
//!
//! ```text
//!   container's socket ─► caller ─► token ─► rate ─► /kv  /blob  /secrets ─┬─► records   embedded │ PostgreSQL
//!   operator's socket  ─► token ─────────────────────────────────────────┘     ▲
//!                                                        blobs ─► index ───────┘
//!                                                          └────► objects   files │ S3
//! ```

pub mod attach;
pub mod blobs;
mod durable;
pub mod http;
pub mod objects;
pub mod records;
pub mod secrets;
