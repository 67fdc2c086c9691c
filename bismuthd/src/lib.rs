//! bismuthd.
