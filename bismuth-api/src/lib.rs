//! bismuth-api.
