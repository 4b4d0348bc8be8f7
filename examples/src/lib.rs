//! Small complete programs around HAPA's crates, in `examples/`.
#![doc = include_str!("../README.md")]
