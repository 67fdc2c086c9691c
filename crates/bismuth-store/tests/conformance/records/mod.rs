//! Conformance of engines for records.

pub mod basics;
pub mod batches;
pub mod contention;
pub mod expiry;
pub mod listing;
pub mod quota;
