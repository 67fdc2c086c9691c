//! What every engine for records does.

pub mod basics;
pub mod batches;
pub mod contention;
pub mod expiry;
pub mod listing;
pub mod quota;
