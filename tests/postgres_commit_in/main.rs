//! Committing deliveries in a transaction of the application.

#![cfg(feature = "postgres")]

#[path = "../postgres_support/mod.rs"]
mod postgres_support;

mod bank;
mod fencing;
mod once;
mod pool;
mod redelivery;
mod rig;
