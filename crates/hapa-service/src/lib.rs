//! The request pipeline of HAPA: cache, queue, engine, post-processing.
