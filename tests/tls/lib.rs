//! Nothing but tests: see `tests/tls.rs`.
