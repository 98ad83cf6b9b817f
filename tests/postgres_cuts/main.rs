//! Faults between a client and PostgreSQL, at each message and at each statement: what was
//! acknowledged is in the log, once and in order, the group drains, and no connection is lost.
//!
//! By default a sample is tried in which each step meets each kind of fault. With
//! `FLOWSTREAM_SOAK=minutes` all of them are, in an order that spreads what there is time for.

#![cfg(feature = "postgres")]

mod check;
mod consuming;
mod cuts;
mod errors;
mod framing;
mod pairs;
mod plan;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../report/mod.rs"]
mod report;
mod rig;
mod script;
