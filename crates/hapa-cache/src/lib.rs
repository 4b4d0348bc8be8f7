//! A bounded response cache with single-flight.
