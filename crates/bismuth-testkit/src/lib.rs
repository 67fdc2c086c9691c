//! bismuth-testkit.
