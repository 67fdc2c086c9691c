//! The `bismuthd` program.

fn main() {}
