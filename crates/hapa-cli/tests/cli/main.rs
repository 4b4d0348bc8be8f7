//! The `hapa` program from outside: arguments and files in, standard output, standard error and exit code out.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should stop")]

mod bad_input;
mod cache;
mod clock;
mod generate;
mod idle;
mod keys;
mod life;
mod load;
mod measure;
mod model;
mod sandbox;
mod serve;
mod settings;
mod signals;
mod work;
