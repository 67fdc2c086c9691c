//! The `bismuth-init` program.

fn main() {}
