//! Chaos on PostgreSQL, with real processes: writers, a group that consumes, and a pipeline that
//! forwards exactly once, while processes, connections, servers, clocks and disks fail at random.
//!
//! A round counts the faults that fired, ends by healing, has to come to rest within a bound, and is
//! checked: nothing that was acknowledged is lost, nothing is there twice, there are no gaps, the
//! order is kept, copies are what was copied, there is one owner an epoch, no commit of a lost lease
//! was accepted, and no takeover repeats more than was in flight. With a protection taken away these
//! checks fail.
//!
//! `FLOWSTREAM_SOAK=minutes` repeats the rounds of processes and of servers for so long, and mixes both
//! in those of servers; some processes stay through all of them, and must not grow. `FLOWSTREAM_SEED`
//! gives the seed of what goes wrong; when it happens is up to the machine.

#![cfg(all(unix, feature = "postgres"))]

use std::ops::Range;
use std::time::Duration;

use crew::Terms;
use nemesis::{Kind, TO_PROCESSES, TO_SERVERS, rage};
use place::{Place, SETTINGS};
use postgres_support::Cluster;
use process_support::faketime::FakeTime;
use report::Report;
use role::Without;
use scene::{Outcome, Rest, Scene, tell};

mod check;
mod crew;
mod dice;
mod disk;
mod lagging;
mod nemesis;
mod place;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../process_support/mod.rs"]
mod process_support;
mod reading;
#[path = "../report/mod.rs"]
mod report;
mod role;
mod scene;
mod tag;
mod tampered;
mod worker;
mod writing;

/// Not a test: what the tests start and kill.
#[test]
fn child() {
    worker::run_if_asked();
}

/// Rounds in which these things go wrong, until the time that was asked for is over; the first takes a
/// few seconds.
fn rounds(suite: &'static str, place: Place, kinds: &[Kind], every: Range<u64>) {
    let soak = report::soak();
    let is_long = soak.is_some();
    let terms = Terms {
        residents: is_long,
        ..Terms::default()
    };
    let time = Duration::from_secs(if is_long { 40 } else { 7 });
    let bound = terms.in_flight;
    let scene = Scene::new(suite, place, terms);
    let rounds = scene.rounds(soak.unwrap_or_default(), |scene| {
        scene.round(|place, crew, dice| rage(place, crew, dice, kinds, every.clone(), time))
    });
    let (outcomes, rests) = rounds.unwrap();
    tell(suite, &outcomes, &rests, bound);
    if is_long {
        let tried = |it: &Outcome| it.findings.workers.fenced + it.findings.refused;
        let tried: u64 = outcomes.iter().map(tried).sum();
        assert!(tried > 0, "zombies tried to write");
        check_growth(&rests).unwrap();
    }
}

/// Those who stay keep their size, give or take what a library or a pool takes once.
fn check_growth(rests: &[Rest]) -> Result<(), String> {
    let ([first, ..], [.., last]) = (rests, rests) else {
        return Ok(());
    };
    for (before, after) in first.sizes.iter().zip(&last.sizes) {
        let ((_, memory, files), (_, memory_then, files_then)) = (before, after);
        if *memory_then > memory * 2 + (16 << 10) || *files_then > files + 16 {
            return Err(format!("{before:?} grew to {after:?}"));
        }
    }
    Ok(())
}

#[test]
fn processes_die_stop_and_lose_their_connections() {
    let place = Place::new(Cluster::start_with(SETTINGS));
    rounds("process chaos", place, &TO_PROCESSES, 200..800);
}

#[test]
fn servers_crash_restart_and_fail_over() {
    let mut place = Place::new(Cluster::start_with(SETTINGS));
    place.follow_synchronously();
    let mut kinds = TO_SERVERS.to_vec();
    if report::soak().is_some() {
        kinds.extend(TO_PROCESSES);
    }
    rounds("server chaos", place, &kinds, 200..800);
}

#[test]
fn clocks_of_server_and_processes_may_jump_by_an_hour() {
    let (Some(here), Some(there)) = (FakeTime::new(), FakeTime::new()) else {
        return println!("libfaketime is not installed: skipped");
    };
    let place = Place::new(Cluster::start_under(&there.environment(), SETTINGS));
    let terms = Terms {
        environment: here.environment(),
        ..Terms::default()
    };
    let bound = terms.in_flight;
    let mut scene = Scene::new("clocks", place, terms);
    let kinds = [Kind::Kill, Kind::Pause, Kind::EndSession, Kind::Leave];
    let time = Duration::from_secs(5);
    let outcome = here.while_it_jumps(|| {
        there.while_it_jumps(|| {
            scene.round(|place, crew, dice| rage(place, crew, dice, &kinds, 200..800, time))
        })
    });
    let mut outcome = outcome.unwrap();
    let jumps = outcome.findings.jumps;
    assert!(jumps > 0, "the clock jumped");
    outcome.faults.insert(Kind::JumpClock, jumps);
    // Told by those clocks.
    outcome.findings.stood_still.clear();
    drop(scene);
    tell("clocks", &[outcome], &[], bound);
}

/// The first few are enough, unless the machine is slow.
const ROUNDS: u32 = 100;

/// Short rounds with a protection taken away, in which this happens again and again, until a check
/// fails: what was found.
fn control(without: Without, kind: Kind) -> String {
    let place = Place::new(Cluster::start_with(SETTINGS));
    let terms = Terms {
        without,
        // Zombies are not replaced by others that know better.
        residents: without == Without::Fence,
        ..Terms::default()
    };
    let mut scene = Scene::new("control", place, terms);
    let time = Duration::from_millis(1500);
    for _ in 0..ROUNDS {
        let round =
            scene.round(|place, crew, dice| rage(place, crew, dice, &[kind], 100..300, time));
        match round {
            Ok(_) => scene.crew.go_on(),
            Err(wrong) => {
                Report::of("chaos without a protection")
                    .count("planted bugs", 1)
                    .write();
                return wrong;
            }
        }
    }
    panic!("without a protection nothing was found");
}

#[test]
fn without_ids_what_a_retry_doubled_is_found() {
    let wrong = control(Without::Ids, Kind::LoseAnswers);
    // Of a writer, or of the pipeline that forwards.
    let wanted = ["twice", "a call was torn", "its copy is", "copies"];
    assert!(wanted.iter().any(|it| wrong.contains(it)), "{wrong}");
}

#[test]
fn without_the_fence_what_a_zombie_did_is_found() {
    let wrong = control(Without::Fence, Kind::Pause);
    let wanted = ["its copy is", "copies", "was accepted", "committed twice"];
    assert!(wanted.iter().any(|it| wrong.contains(it)), "{wrong}");
}

#[test]
fn a_commit_before_the_work_is_found_when_the_worker_is_killed() {
    let wrong = control(Without::Order, Kind::Kill);
    assert!(wrong.contains("never came"), "{wrong}");
}
