//! What goes over the wire, and how it becomes what [`hapa_service`] knows. Nothing outside this crate's edge uses
//! these shapes, so a change of either side shows here.
mod absent;
pub mod anthropic;
mod choice;
pub mod hapa;
pub mod llama;
pub mod openai;
pub mod prompt;
