//! The HTTP API of HAPA.
