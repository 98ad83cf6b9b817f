//! How long a group stands still when its owner goes, between real processes on PostgreSQL.
//!
//! ```text
//! cargo bench --bench takeover --features postgres                everything, about 7 minutes
//! cargo bench --bench takeover --features postgres -- kill        rows with "kill" in their name
//! cargo bench --bench takeover --features postgres -- --quick     a few of each: whether it runs
//! cargo bench --bench takeover --features postgres -- --json FILE all takeovers as well
//! ```
//!
//! Each takeover is one of its own: an owner works on a steady stream of messages, eight at a time,
//! and goes; when its standby has taken over, the next standby is started. Several such pairs run at
//! once, so few that they do not wait for each other.
//!
//! - **shutdown**, **drop**, **panic**, **drop of the runtime**: from the call until the standby is
//!   active, with what was in flight finished in between (shutdown).
//! - **kill -9**: from the kill until the standby is active.
//! - **SIGSTOP**, **cut off**: from the last write of the owner or the first message that is pending,
//!   whichever is later. The process goes on when it was replaced, and its commits are refused.
//!
//! Beside them stands how long it took to write a message just then, which waits for one fsync: a clean
//! hand-over waits for three, one after the other.
//!
//! - **connections** of an owner that lives, ended by the server: the one that listens, and all.
//! - **idle groups**: WAL and statements of ten groups with five consumers each, less the WAL of an
//!   empty server over the same time.
//! - **steady**: renewals of an owner that commits eight times a lease.
//! - **storm**: 32 consumers in 8 processes that join, leave and are killed at random.
//!
//! All histories are checked: nothing is lost, nothing that was committed is delivered again, an epoch
//! has one owner, and no takeover repeats more than was in flight. The program ends with an error if
//! that does not hold.

#![cfg(unix)]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the machine"
)]

use std::time::Duration;

use common::args::Args;
use common::harness::Bench;
use common::table::{Figure, Samples, Unit};
use postgres_support::Cluster;
use process_support::connections::{self, Whose};
use process_support::idle::{idle, steady};
use process_support::storm::Storm;
use process_support::trials::{Outcome, Trials, Way, World};
use process_support::worker;

#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/postgres_support/mod.rs"]
mod postgres_support;
#[path = "../../tests/process_support/mod.rs"]
mod process_support;

fn main() {
    worker::run_if_asked();
    let args = Args::of_process();
    if args.is_test {
        return;
    }
    let mut bench = Bench::new(args.is_quick, args.filter, args.json);
    let server = Cluster::start_with(&[("max_connections", "1000")]);
    takeovers(&mut bench, &server);
    if bench.wants("connections") {
        print_connections(&bench, &server);
    }
    if bench.wants("idle groups") {
        print_idle(&bench);
    }
    if bench.wants("steady") {
        print_steady(&bench, &server);
    }
    if bench.wants("storm") {
        print_storm(&bench, &server);
    }
}

fn seconds_of(bench: &Bench, seconds: u64) -> Duration {
    Duration::from_secs(if bench.quick { 5 } else { seconds })
}

/// A way to go, with which lease, in how many pairs, how often each, and the most that p99 may be.
type Row = (Way, u64, u32, u32, Option<Duration>);

fn takeovers(bench: &mut Bench, server: &Cluster) {
    const SOON: Option<Duration> = Some(Duration::from_millis(50));
    const SECOND: Option<Duration> = Some(Duration::from_secs(1));
    const ROWS: [Row; 11] = [
        (Way::Stop, 30, 2, 50, SOON),
        (Way::Stop, 2, 2, 50, SOON),
        (Way::Drop, 30, 2, 10, SOON),
        (Way::Panic, 30, 2, 10, SOON),
        (Way::DropRuntime, 30, 2, 10, SECOND),
        (Way::Kill, 30, 4, 25, SECOND),
        (Way::Kill, 2, 4, 25, SECOND),
        (Way::Pause, 30, 25, 2, Some(Duration::from_secs(33))),
        (Way::Pause, 2, 5, 10, Some(Duration::from_millis(2200))),
        (Way::CutOff, 30, 10, 1, Some(Duration::from_secs(33))),
        (Way::CutOff, 2, 5, 4, Some(Duration::from_millis(2200))),
    ];
    println!(
        "| the owner | lease | times | p50 | p99 | max | bar (p99) | a send, p50 | messages | owners | \
         repeated at most | refused commits |\n|---|---|---|---|---|---|---|---|---|---|---|---|"
    );
    for (way, lease, pairs, rounds, bar) in ROWS {
        if !bench.wants(name(way)) {
            continue;
        }
        let (pairs, rounds) = match bench.quick {
            true => (pairs.min(2), 1),
            false => (pairs, rounds),
        };
        let lease = Duration::from_secs(if bench.quick { lease.min(2) } else { lease });
        let mut trials = Trials::new(way, lease).pairs(pairs).rounds(rounds);
        // The load stays the same.
        trials.interval = Duration::from_millis(10) * pairs;
        trials.work = trials
            .work
            .max(trials.interval * 3 / 2)
            .min(trials.work * 4);
        if way == Way::Stop {
            trials.work = Duration::from_millis(2);
        }
        // A process says that it stands by a little before it has made its connections.
        trials.peace = Duration::from_millis(500);
        let outcome = trials.run(&World::new(server)).unwrap_or_else(fail);
        print_takeovers(way, lease, &outcome, bar);
        let figure = format!("takeover: {}, lease {lease:?}", name(way));
        let times = outcome.times.iter().map(|time| time.as_secs_f64() * 1e6);
        bench.keep(
            Figure::new(figure, "", Unit::Micros),
            Samples(times.collect()),
        );
    }
}

fn name(way: Way) -> &'static str {
    match way {
        Way::Stop => "shutdown",
        Way::Drop => "drop",
        Way::Panic => "panic in a handler",
        Way::DropRuntime => "drop of the runtime",
        Way::Kill => "kill -9",
        Way::Pause => "SIGSTOP",
        Way::CutOff => "cut off",
    }
}

fn print_takeovers(way: Way, lease: Duration, outcome: &Outcome, bar: Option<Duration>) {
    let Outcome { times, sum, .. } = outcome;
    let rank = |share: f64| times[(share * times.len() as f64).ceil() as usize - 1];
    println!(
        "| {} | {lease:?} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
        name(way),
        times.len(),
        seconds(rank(0.5)),
        seconds(rank(0.99)),
        seconds(rank(1.0)),
        bar.map_or_else(String::new, seconds),
        seconds(outcome.sends[outcome.sends.len() / 2]),
        sum.messages,
        sum.owners,
        sum.most_again,
        sum.fenced,
    );
    if let Some(least) = outcome.margins.first() {
        let least = seconds(*least);
        println!("    stopped by itself at least {least} before its successor was active");
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

fn print_connections(bench: &Bench, server: &Cluster) {
    for whose in [Whose::Listener, Whose::All] {
        let times = if bench.quick { 2 } else { 20 };
        let ended = connections::kill(&World::new(server), whose, times).unwrap_or_else(fail);
        println!(
            "\nconnections, {whose:?}, killed {times} times: {} leases lost; the group stood still for \
             {} at most, and repeated {} messages at most",
            ended.sum.owners - 1,
            seconds(ended.longest_gap),
            ended.sum.most_again,
        );
    }
}

fn print_idle(bench: &Bench) {
    let time = seconds_of(bench, 60);
    let costs = idle(10, 5, time);
    println!(
        "\nidle groups, 10 with 5 consumers each, in 5 processes, for {time:?}: WAL {} bytes, of an \
         empty server {} bytes; {} statements, which wrote {} bytes:",
        costs.wal,
        costs.empty_wal,
        costs.calls(),
        costs.written()
    );
    for (calls, wal, text) in &costs.statements {
        println!("    {calls} × {text} … ({wal} bytes)");
    }
}

fn print_steady(bench: &Bench, server: &Cluster) {
    for lease in [2, 30] {
        let lease = Duration::from_secs(lease);
        let time = seconds_of(bench, 20);
        let steady = steady(&World::new(server), lease, time).unwrap_or_else(fail);
        println!(
            "\nsteady, lease {lease:?}, for {time:?}: {} commits, {} renewals",
            steady.commits, steady.renewals
        );
    }
}

fn print_storm(bench: &Bench, server: &Cluster) {
    let storm = Storm {
        processes: 8,
        consumers: 4,
        time: seconds_of(bench, 60),
        lease: Duration::from_secs(30),
    };
    let after = storm.run(&World::new(server)).unwrap_or_else(fail);
    println!(
        "\nstorm, 32 consumers in 8 processes for {:?}: {} kills, {} consumers, {} owners, {} messages; \
         the group stood still for {} at most, and repeated {} messages at most; then all 32 had their \
         turn within {}",
        storm.time,
        after.kills,
        after.joined,
        after.sum.owners,
        after.sum.messages,
        seconds(after.longest_gap),
        after.sum.most_again,
        seconds(after.line),
    );
}

fn fail<T>(wrong: String) -> T {
    eprintln!("{wrong}");
    std::process::exit(1);
}
