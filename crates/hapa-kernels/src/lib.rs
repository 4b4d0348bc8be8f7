//! Quantised matrix multiplication and attention kernels for CPUs.
