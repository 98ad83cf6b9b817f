//! Groups across real processes: an owner that goes is replaced, one that comes back moves nothing.
//!
//! What is promised is checked on all that the processes said and on the ledger: nothing lost, nothing
//! that was committed delivered again, one owner an epoch, and no more repeated than was in flight.
//! `cargo bench --bench takeover` measures how long it takes.

#![cfg(all(unix, feature = "postgres"))]

use std::sync::OnceLock;
use std::time::Duration;

use postgres_support::Cluster;
use process_support::trials::{Outcome, Trials, Way, World};
use process_support::worker;

#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../process_support/mod.rs"]
mod process_support;

/// Longer than any test takes: whoever is replaced here is not replaced because it ran out.
const LONG: Duration = Duration::from_secs(120);
const SHORT: Duration = Duration::from_secs(2);

/// Not a test: what the tests start and kill.
#[test]
fn child() {
    worker::run_if_asked();
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start_with(&[("max_connections", "400")]))
}

fn run(trials: &Trials) -> Outcome {
    let outcome = trials.run(&World::new(cluster()));
    let outcome = outcome.unwrap_or_else(|wrong| panic!("{trials:?}: {wrong}"));
    println!("{:?}: {outcome:?}", trials.way);
    outcome
}

#[test]
fn one_that_stops_hands_over() {
    run(&Trials::new(Way::Stop, LONG).pairs(2));
}

#[test]
fn one_whose_consumer_is_dropped_hands_over() {
    run(&Trials::new(Way::Drop, LONG));
}

#[test]
fn one_whose_handler_panics_hands_over() {
    run(&Trials::new(Way::Panic, LONG));
}

#[test]
fn one_whose_runtime_is_dropped_is_replaced() {
    run(&Trials::new(Way::DropRuntime, LONG));
}

#[test]
fn one_that_is_killed_is_replaced_long_before_its_lease_runs_out() {
    run(&Trials::new(Way::Kill, LONG).pairs(2).rounds(3));
}

#[test]
fn one_that_is_stopped_is_replaced_and_moves_nothing_when_it_goes_on() {
    run(&Trials::new(Way::Pause, SHORT).pairs(2));
}

#[test]
fn one_that_is_cut_off_stops_by_itself_and_is_replaced() {
    let outcome = run(&Trials::new(Way::CutOff, Duration::from_secs(5)));
    assert_eq!(outcome.margins.len(), 2, "it noticed without being told");
}
