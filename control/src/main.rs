//! The `gate64` binary.

fn main() {}
