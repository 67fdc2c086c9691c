//! bismuth-coord.
