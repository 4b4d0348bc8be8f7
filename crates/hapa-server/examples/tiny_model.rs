//! Writes a tiny random model with fill-in-the-middle tokens, for tests that are not written in Rust:
//! `cargo run --example tiny_model -- FILE`.

use hapa_model::testing::TinyModel;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: tiny_model FILE")?;
    Ok(TinyModel::qwen2().write(path)?)
}
