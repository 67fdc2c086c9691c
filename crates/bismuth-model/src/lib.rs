//! bismuth-model.
