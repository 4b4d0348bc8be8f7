//! The store against a hub on loopback, a package index made of wheels in a folder, the real package index, other
//! processes, and full disks.

mod common;
mod disk;
mod fake_hub;
mod hub;
mod index;
mod manage;
mod processes;
