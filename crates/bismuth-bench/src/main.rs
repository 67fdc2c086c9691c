//! The `bismuth-bench` program.

fn main() {}
