//! Every metric of HAPA by name, and its Prometheus exposition.
