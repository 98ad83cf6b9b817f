//! Connections that the server ends, of owners that live.

use std::time::{Duration, Instant};

use super::check::Summary;
use super::history::{History, PATIENCE, What};
use super::trials::World;
use super::{Job, Process};

/// Which connections are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// The one whose end would mean that the process of the owner is gone.
    Listener,
    /// All connections of all processes.
    All,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub sum: Summary,
    /// The longest that the group stood still between two commits.
    pub longest_gap: Duration,
}

/// An owner and a standby, with a lease longer than this takes, whose connections are ended so many
/// times; each time they go on working.
pub fn kill(world: &World<'_>, whose: Whose, times: u32) -> Result<Ended, String> {
    let history = History::default();
    let mut job = Job::new(world.url(), "orders", "workers");
    job.lease = PATIENCE * 2;
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
    let mut listener = registered(world, "");
    for _ in 0..times {
        let mark = history.mark();
        match whose {
            Whose::Listener => {
                ask(world, &format!("SELECT pg_terminate_backend({listener})"));
                listener = registered(world, &listener);
            }
            Whose::All => drop(ask(world, ALL)),
        }
        history.wait_for("work", mark, |event| event.what == What::Committed);
    }
    let story = world.finish(producing, &history, &job, "workers");
    drop(processes);
    Ok(Ended {
        sum: story.check()?,
        longest_gap: story.longest_gap(),
    })
}

const ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()";

/// The backend of the owner's process that lives, or 0.
const LISTENER: &str = "SELECT coalesce(max(m.pid), 0) FROM flowstream.leases l
    JOIN flowstream.members m USING (member)
    JOIN pg_stat_activity a ON a.pid = m.pid AND a.backend_start = m.backend_start";

/// Waits until the owner is registered with another backend than before.
fn registered(world: &World<'_>, before: &str) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pid = ask(world, LISTENER);
        if pid != "0" && pid != before {
            return pid;
        }
        assert!(Instant::now() < deadline, "the owner registers again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ask(world: &World<'_>, sql: &str) -> String {
    world.cluster.psql(&world.database, sql).trim().to_owned()
}
