//! Writes without a function: they have one snapshot, which may be older than their lock. Here they are
//! made to wait for the lock, as a process may that is stopped between the two.

#![cfg(feature = "postgres")]

mod appends;
mod commits;
mod place;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
