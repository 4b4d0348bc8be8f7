//! The criterion suite of HAPA stands in `benches/hapa/`, its dated results in `records/`. See `README.md`.
