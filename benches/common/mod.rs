//! What the benchmarks share: windows that take turns, the table, the command line.

#![allow(dead_code, reason = "not every benchmark needs all of it")]

pub(crate) mod args;
pub(crate) mod built;
pub(crate) mod growth;
pub(crate) mod harness;
pub(crate) mod support;
pub(crate) mod table;
pub(crate) mod wide;
