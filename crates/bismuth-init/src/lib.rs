//! bismuth-init.
