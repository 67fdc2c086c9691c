//! The base of every crate: backoff, error chains, the clock, atomic file writes, log throttling.
//!
//! - [`backoff`]: how long to wait before the next attempt.
//! - [`chain`]: an error with its causes, in one line.
//! - [`now_ms`]: the time as records carry it.
//! - [`mod@file`]: files that are replaced whole, and names that are durable.
//! - [`LogThrottle`]: what happens again and again, logged every few seconds.

pub mod backoff;
mod clock;
mod error_chain;
pub mod file;
mod log_throttle;

pub use backoff::{Backoff, Delays};
pub use clock::now_ms;
pub use error_chain::chain;
pub use log_throttle::LogThrottle;
