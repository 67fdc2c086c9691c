//! The `bismuthctl` program.

fn main() {}
