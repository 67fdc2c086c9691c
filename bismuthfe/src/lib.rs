//! bismuthfe.
