//! Connections that the server ends, of owners that live.

use std::time::{Duration, Instant};

use crate::process_support::history::{History, PATIENCE, What};
use crate::process_support::trials::World;
use crate::process_support::{Job, Process};
use crate::{LONG, cluster};

/// The backend whose death would mean that the process of the owner is gone.
const MEMBER: &str = "SELECT coalesce(max(m.pid), 0) FROM flowstream.leases l
    JOIN flowstream.members m USING (member)
    JOIN pg_stat_activity a ON a.pid = m.pid AND a.backend_start = m.backend_start";

#[test]
fn an_owner_whose_listener_is_killed_goes_on() {
    let world = World::new(cluster());
    let ask = |sql: &str| world.cluster.psql(&world.database, sql).trim().to_owned();
    let enrolled = |before: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pid = ask(MEMBER);
            if pid != "0" && pid != before {
                return pid;
            }
            assert!(Instant::now() < deadline, "the owner enrols again");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    work(&world, |history| {
        let mut before = enrolled("");
        for _ in 0..5 {
            let mark = history.mark();
            ask(&format!("SELECT pg_terminate_backend({before})"));
            before = enrolled(&before);
            history.wait_for("work", mark, |event| event.what == What::Committed);
        }
    });
}

#[test]
fn owner_and_standby_go_on_when_all_their_connections_are_killed() {
    let world = World::new(cluster());
    let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    work(&world, |history| {
        for _ in 0..10 {
            let mark = history.mark();
            world.cluster.psql(&world.database, all);
            history.wait_for("work", mark, |event| event.what == What::Committed);
        }
    });
}

/// An owner and a standby, whose lease is longer than the test, while this runs.
fn work(world: &World<'_>, run: impl FnOnce(&History)) {
    let history = History::default();
    let mut job = Job::new(world.url(), "orders", "workers");
    job.lease = LONG;
    let start = |what: What| {
        let process = Process::start(&job, &history);
        let number = process.number;
        history.wait_for("a process", 0, |event| {
            event.process == number && event.what == what
        });
        process
    };
    let processes = [start(What::Active), start(What::Standby)];
    let producing = world.produce("orders", Duration::from_millis(20), &history);
    run(&history);
    let story = world.finish(producing, &history, &job, "workers");
    drop(processes);
    println!("{:?}", story.check().unwrap());
}
