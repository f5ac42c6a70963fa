//! The `tristream` binary.

fn main() {}
