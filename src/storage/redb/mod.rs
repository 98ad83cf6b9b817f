//! The embedded storage.
