//! bismuthctl.
