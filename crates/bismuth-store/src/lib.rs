//! Stores records, objects, blobs and secrets: storage engines behind traits, and what is built on them.
//!
//! ```text
//!   secrets ──sealed──┐
//!   blobs ──► index ──┴─► records   embedded │ PostgreSQL
//!     └─────────────────► objects   files │ S3
//! ```

pub mod blobs;
mod key;
pub mod objects;
pub mod records;
pub mod secrets;

pub use key::{Key, KeyError};
