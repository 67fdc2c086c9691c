//! bismuth-daemon.
