//! The store against a hub on loopback, a package index made of wheels in a folder, the real package index, other
//! processes, and full disks.

#![expect(clippy::expect_used, reason = "these are tests; their helpers may fail as they do")]

mod common;
mod disk;
mod fake_hub;
mod hub;
mod index;
mod manage;
mod processes;
