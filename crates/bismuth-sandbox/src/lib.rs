//! bismuth-sandbox.
