//! The `bismuthfe` program.

fn main() {}
