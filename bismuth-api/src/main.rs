//! The `bismuth-api` program.

fn main() {}
