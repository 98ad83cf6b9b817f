//! Groups across real processes: an owner that goes is replaced, one that comes back moves nothing.
//!
//! What is promised is checked on all that the processes said and on the ledger: nothing lost, nothing
//! that was committed delivered again, one owner an epoch, and no more repeated than was in flight.
//! `cargo bench --bench takeover` measures how long it takes.

#![cfg(all(unix, feature = "postgres"))]

use std::sync::OnceLock;
use std::time::Duration;

use postgres_support::Cluster;
use process_support::idle::{idle, steady};
use process_support::storm::Storm;
use process_support::trials::{Outcome, Trials, Way, World};
use process_support::worker;

mod checker;
mod clocks;
mod connections;
mod example;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../process_support/mod.rs"]
mod process_support;

/// Longer than any test takes: whoever is replaced here is not replaced because it ran out.
const LONG: Duration = Duration::from_secs(3600);
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
    println!("{:?}: {:?}, {:?}", trials.way, outcome.times, outcome.sum);
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

#[test]
fn one_that_trusts_its_lease_too_long_moves_nothing() {
    let outcome = run(&believing(&SHORT));
    assert!(outcome.sum.fenced > 0, "it tried");
}

/// The owner believes in a lease that is much longer than what the standby waits for: it does not
/// notice by itself that it was paused.
fn believing(lease: &Duration) -> Trials {
    let mut trials = Trials::new(Way::Pause, *lease).rounds(1);
    trials.believed = Some(LONG);
    trials
}

#[test]
fn without_the_fence_the_checker_finds_what_a_zombie_did() {
    let world = World::new(cluster());
    let (fence, database) = (
        "AND l.owner = claimer AND l.epoch = at_epoch",
        &world.database,
    );
    let source = "SELECT pg_get_functiondef('flowstream.commit'::regproc)";
    let source = world.cluster.psql(database, source);
    assert!(source.contains(fence), "{source}");
    world.cluster.psql(database, &source.replace(fence, ""));
    let wrong = believing(&SHORT).run(&world).unwrap_err();
    assert!(wrong.contains("with epoch 1 was accepted"), "{wrong}");
}

#[test]
fn idle_groups_write_nothing() {
    let costs = idle(10, 5, Duration::from_secs(5));
    println!("{costs:#?}");
    assert_eq!(costs.written(), 0, "{costs:#?}");
}

#[test]
fn under_steady_commits_there_are_no_renewals() {
    let mut lease = SHORT;
    loop {
        let steady = steady(&World::new(cluster()), lease, lease * 2).unwrap();
        println!("{steady:?}");
        if steady.longest_gap < lease / 4 {
            return assert_eq!(steady.renewals, 0, "{steady:?}");
        }
        // The machine stood still for a while, and the commits were not steady.
        lease *= 2;
        assert!(lease < LONG, "{steady:?}");
    }
}

#[test]
fn in_a_storm_there_is_one_owner_an_epoch_and_nobody_starves() {
    let storm = Storm {
        processes: 8,
        consumers: 4,
        time: Duration::from_secs(10),
        lease: LONG,
    };
    let aftermath = storm.run(&World::new(cluster()));
    println!("{aftermath:?}");
    let aftermath = aftermath.unwrap();
    assert!(aftermath.kills > 0);
    assert!(aftermath.longest_gap < LONG, "{aftermath:?}");
}
