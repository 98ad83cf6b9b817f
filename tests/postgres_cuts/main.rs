//! Faults between a client and PostgreSQL, at each message and at each statement: what was
//! acknowledged is in the log, once and in order, the group drains, and no connection is lost.
//!
//! By default a sample is tried in which each step meets each kind of fault. With `FLOWSTREAM_SOAK`
//! set, all of them are.

#![cfg(feature = "postgres")]

mod check;
mod cuts;
mod errors;
mod plan;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
mod rig;
mod script;
