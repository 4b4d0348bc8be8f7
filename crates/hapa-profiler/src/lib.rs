//! Timing and memory scopes, reports and response-time logs.
