//! Simulation: producers, groups and copies over a storage that fails in all ways that it may, on
//! runtimes that may end, on time that passes only while nobody has anything to do, in one thread, from
//! a seed. What happened goes through the checker of histories, and the same seed does the same again.
//!
//! Each run ends with all healed; then all has to be done within a bound. `FLOWSTREAM_SEEDS` says how
//! many runs there are, `FLOWSTREAM_SOAK` for how many minutes they go on, and `FLOWSTREAM_SEED` is
//! the one to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flowstream::ManualClock;
use flowstream::storage::{MemoryStorage, Storage};
use history::Rule;
use planted::{Bug, Planted};
use run::{Counts, KINDS, Kind, Mistake};
use world::{Outcome, simulate};

mod consuming;
mod harm;
#[path = "../history/mod.rs"]
mod history;
mod machine;
#[path = "../conformance_bites/planted.rs"]
#[allow(dead_code, reason = "most of these bugs are found elsewhere")]
mod planted;
mod process;
mod producing;
#[path = "../report/mod.rs"]
mod report;
mod run;
#[path = "../support/mod.rs"]
mod support;
mod time;
mod trace;
mod world;

/// What takes about 40 seconds on two processors that others use as well.
const SEEDS: u64 = 5_000;

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::new(Arc::new(ManualClock::new())))
}

fn number(name: &str) -> Option<u64> {
    let number = std::env::var(name).ok()?;
    Some(number.parse().expect("a number"))
}

#[derive(Debug, Default)]
struct Sum {
    seeds: u64,
    events: u64,
    counts: Counts,
    time: Duration,
    longest_recovery: Duration,
    /// What is wrong, and in which seeds.
    faults: BTreeMap<String, BTreeSet<u64>>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        if let Some(fault) = fault_of(outcome) {
            self.faults.entry(fault).or_default().insert(seed);
        }
        self.events += outcome.history.events.len() as u64;
        self.counts.add(&outcome.counts);
        self.time += outcome.time;
        self.longest_recovery = self.longest_recovery.max(outcome.recovery);
    }
}

/// What is wrong with a run, if anything is.
fn fault_of(outcome: &Outcome) -> Option<String> {
    match outcome.found.first() {
        Some(found) => Some(format!("{:?}", found.rule)),
        None if outcome.panics > 0 => Some("a panic".to_owned()),
        None => None,
    }
}

#[test]
fn whatever_happens_all_promises_hold() {
    if let Some(seed) = number("FLOWSTREAM_SEED") {
        let outcome = simulate(seed, Mistake::None, memory);
        println!("{outcome:#?}");
        assert_eq!(outcome.panics, 0);
        return assert_eq!(outcome.found, []);
    }
    let soak = report::soak();
    let seeds = match soak {
        Some(_) => u64::MAX,
        None => number("FLOWSTREAM_SEEDS").unwrap_or(SEEDS),
    };
    let began = Instant::now();
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Sum::default()));
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while soak.is_none_or(|soak| began.elapsed() < soak) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let outcome = simulate(seed, Mistake::None, memory);
                    sum.lock().unwrap().add(seed, &outcome);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap();
    println!(
        "{} seeds, {} events, {:.1} simulated hours, the longest recovery {:?}, in {:?}",
        sum.seeds,
        sum.events,
        sum.time.as_secs_f64() / 3600.0,
        sum.longest_recovery,
        began.elapsed(),
    );
    for (kind, count) in KINDS.iter().zip(sum.counts.0) {
        println!("{kind:?}: {count}");
    }
    let mut report = report::Report::of("simulation")
        .count("seeds", sum.seeds)
        .count("lost", 0)
        .most("simulated recovery, ms", sum.longest_recovery.as_millis());
    for (kind, count) in KINDS.iter().zip(sum.counts.0) {
        report = report.fault(&format!("simulated: {kind:?}"), count);
    }
    report.write();
    let faults = &sum.faults;
    assert!(
        faults.is_empty(),
        "FLOWSTREAM_SEED shows what happened: {faults:?}"
    );
    let never = |kind: &&Kind| sum.counts.0[**kind as usize] == 0;
    let never: Vec<&Kind> = KINDS.iter().filter(never).collect();
    assert!(never.is_empty(), "these never happened: {never:?}");
}

#[test]
fn the_same_seed_does_the_same_again() {
    let traces = || -> Vec<u64> {
        (0..200)
            .map(|seed| simulate(seed, Mistake::None, memory).trace)
            .collect()
    };
    // On a thread of its own, with other seeds before it.
    let others = std::thread::spawn(|| {
        simulate(1_000, Mistake::None, memory);
    });
    others.join().unwrap();
    let again = std::thread::spawn(traces);
    let (first, again) = (traces(), again.join().unwrap());
    for (seed, (first, again)) in first.iter().zip(again).enumerate() {
        assert_eq!(*first, again, "seed {seed}");
    }
    let different: std::collections::HashSet<u64> = first.iter().copied().collect();
    assert_eq!(different.len(), first.len(), "each seed has its own trace");
}

/// Storages without some protection, or callers who do not do as they should, and what has to be found then.
const CONTROLS: &[(Bug, Mistake, Rule)] = &[
    (Bug::SwallowsAppends, Mistake::None, Rule::Lost),
    (Bug::ForgetsIds, Mistake::None, Rule::Doubled),
    (Bug::SettlesWithoutRefusing, Mistake::None, Rule::Doubled),
    (Bug::IgnoresTheOrder, Mistake::None, Rule::Reordered),
    (Bug::IgnoresTheFence, Mistake::None, Rule::ZombieCommit),
    (
        Bug::IgnoresTheFenceOfAppends,
        Mistake::None,
        Rule::NotExactlyOnce,
    ),
    (
        Bug::LosesTheCommitsOfAppends,
        Mistake::None,
        Rule::NotExactlyOnce,
    ),
    (Bug::DropsCommits, Mistake::None, Rule::DeliveredAfterCommit),
    (Bug::ReplacesProgress, Mistake::None, Rule::PositionBack),
    (Bug::SkipsAMessage, Mistake::None, Rule::Skipped),
    (Bug::DeniesCommits, Mistake::None, Rule::DoneThoughRefused),
    (Bug::None, Mistake::CountsAllAttempts, Rule::LateAnswer),
    (Bug::None, Mistake::KeepsWhatItDrops, Rule::Stuck),
    (Bug::None, Mistake::ShutsDownInSecret, Rule::EndedAlone),
    (Bug::None, Mistake::TakesErrorsForTheEnd, Rule::WentOn),
];

#[test]
fn without_a_protection_the_checker_finds_what_goes_wrong() {
    for (bug, mistake, rule) in CONTROLS {
        let mut seeds = 0..5_000;
        let is_found = |seed: u64| {
            let planted =
                || -> Arc<dyn Storage> { Arc::new(Planted::new(*bug, ManualClock::new())) };
            let outcome = simulate(seed, *mistake, planted);
            outcome.found.iter().any(|found| found.rule == *rule)
        };
        let seed = seeds.find(|seed| is_found(*seed));
        println!("{bug:?}, {mistake:?}: {rule:?} in seed {seed:?}");
        assert!(
            seed.is_some(),
            "{bug:?}, {mistake:?}: {rule:?} is not found"
        );
    }
}
