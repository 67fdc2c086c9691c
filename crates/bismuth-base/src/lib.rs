//! What every crate needs and none of ours is needed for.
//!
//! - [`backoff`]: how long to wait before the next attempt.
//! - [`chain`]: an error with its causes, in one line.
//! - [`now_ms`]: the time as records carry it.
//! - [`file`]: files that are replaced whole.

pub mod backoff;
mod clock;
mod error_chain;
pub mod file;

pub use backoff::{Backoff, Delays};
pub use clock::now_ms;
pub use error_chain::chain;
