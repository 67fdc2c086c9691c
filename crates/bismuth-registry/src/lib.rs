//! bismuth-registry.
