//! The `hapa` command.
fn main() {}
