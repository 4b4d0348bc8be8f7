//! The fast backend: the llama family of graphs over `hapa-kernels`.
mod kv;
