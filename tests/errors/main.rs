//! Every text that a user can meet, provoked and compared with what is checked in (`texts.txt`), so that
//! each was read by somebody: what happened, to what, and what to do.
//!
//! `FLOWSTREAM_REWRITE=1` writes the file anew.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "postgres")]
#[path = "../postgres_support/mod.rs"]
mod postgres_support;

mod calls;
mod consuming;
#[cfg(feature = "redb")]
mod files;
mod listing;
mod opening;
mod secrets;
#[cfg(feature = "postgres")]
mod servers;
mod sources;
#[cfg(feature = "postgres")]
mod transactions;

/// The error of what has to fail.
pub(crate) fn refused<T, E>(result: Result<T, E>) -> E {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error,
    }
}
