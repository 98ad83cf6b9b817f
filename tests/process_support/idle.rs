//! What consumers cost the database when there is nothing to do, and when there is.

use std::time::{Duration, Instant};

use super::history::{History, PATIENCE, What};
use super::trials::World;
use super::{Job, Process};
use crate::postgres_support::Cluster;

/// What happened within a time.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Bytes of WAL of the server.
    pub wal: u64,
    /// Bytes of WAL of another server, which did nothing.
    pub empty_wal: u64,
    /// Statements of the consumers: calls, bytes of WAL, text.
    pub statements: Vec<(u64, u64, String)>,
}

impl Costs {
    pub fn calls(&self) -> u64 {
        self.statements.iter().map(|(calls, ..)| calls).sum()
    }

    /// Bytes of WAL that the statements wrote.
    pub fn written(&self) -> u64 {
        self.statements.iter().map(|(_, wal, _)| wal).sum()
    }
}

/// Both servers leave their tables alone: what the clean-up after the start writes is not of an idle
/// group.
const SETTINGS: [(&str, &str); 4] = [
    ("shared_preload_libraries", "pg_stat_statements"),
    ("max_connections", "200"),
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1h"),
];

/// Groups that have read all there is, with so many consumers each, in as many processes; for so
/// long.
pub fn idle(groups: usize, consumers: usize, time: Duration) -> Costs {
    let servers = [(); 2].map(|()| Cluster::start_with(&SETTINGS));
    let [server, _] = &servers;
    let world = World::new(server);
    server.psql("postgres", "CREATE EXTENSION pg_stat_statements");

    let history = History::default();
    let mut job = Job::new(world.url(), "quiet", "-");
    job.groups = (0..groups).map(|group| format!("group-{group}")).collect();
    let producing = world.produce("quiet", Duration::from_millis(1), &history);
    let processes: Vec<_> = (0..consumers)
        .map(|_| Process::start(&job, &history))
        .collect();
    for process in &processes {
        let number = process.number;
        for group in &job.groups {
            let arrives = format!("a consumer of {group} in process {number}");
            history.wait_for(&arrives, 0, |event| {
                event.process == number
                    && event.group == *group
                    && [What::Active, What::Standby].contains(&event.what)
            });
        }
    }
    let end = world.runtime.block_on(producing.finish()).len() as u64;
    for group in &job.groups {
        world.wait_until_done(&job.stream, group, end);
    }

    settle(&servers);
    server.psql("postgres", "SELECT pg_stat_statements_reset()");
    let before = servers.each_ref().map(wal);
    std::thread::sleep(time);
    let after = servers.each_ref().map(wal);
    Costs {
        wal: after[0] - before[0],
        empty_wal: after[1] - before[1],
        statements: statements(&world),
    }
}

/// Waits until the servers have written what came before.
fn settle(servers: &[Cluster; 2]) {
    for server in servers {
        server.psql("postgres", "CHECKPOINT");
    }
    let deadline = Instant::now() + PATIENCE;
    let mut before = servers.each_ref().map(wal);
    loop {
        std::thread::sleep(Duration::from_secs(2));
        let now = servers.each_ref().map(wal);
        if now == before {
            return;
        }
        assert!(Instant::now() < deadline, "the servers do not come to rest");
        before = now;
    }
}

/// How much WAL there is.
fn wal(server: &Cluster) -> u64 {
    number(&server.psql(
        "postgres",
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')",
    ))
}

fn number(text: &str) -> u64 {
    text.trim().parse().expect("a number")
}

fn statements(world: &World<'_>) -> Vec<(u64, u64, String)> {
    let sql = format!(
        "SELECT s.calls, s.wal_bytes, left(regexp_replace(s.query, '\\s+', ' ', 'g'), 60)
         FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
         WHERE d.datname = '{}' ORDER BY s.calls DESC",
        world.database
    );
    let rows = world.cluster.psql("postgres", &sql);
    let row = |row: &str| {
        let mut columns = row.splitn(3, '|');
        let mut next = || columns.next().expect("a column").to_owned();
        (number(&next()), number(&next()), next())
    };
    rows.lines().map(row).collect()
}

/// What an owner wrote while it committed a message at least each half lease.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    pub commits: u64,
    /// Writes that were neither the making of the group nor a claim nor a commit.
    pub renewals: u64,
    /// The longest time between two commits.
    pub longest_gap: Duration,
}

/// One owner that commits each message before it takes the next, and a standby; for so long.
pub fn steady(world: &World<'_>, lease: Duration, time: Duration) -> Result<Steady, String> {
    let history = History::default();
    let mut job = Job::new(world.url(), "steady", "workers");
    (job.lease, job.in_flight, job.work) = (lease, 1, Duration::ZERO);
    let owner = Process::start(&job, &history);
    let number = owner.number;
    history.wait_for("the owner", 0, |event| {
        event.process == number && event.what == What::Active
    });
    let standby = Process::start(&job, &history);
    let number = standby.number;
    history.wait_for("the standby", 0, |event| {
        event.process == number && event.what == What::Standby
    });
    let producing = world.produce("steady", lease / 8, &history);
    std::thread::sleep(time);
    let story = world.finish(producing, &history, &job, "workers");
    let sum = story.check()?;
    let written = story.writes.len() as u64 - 1 - sum.owners;
    let committed = story
        .events
        .iter()
        .filter(|event| event.what == What::Committed);
    let commits = committed.count() as u64;
    Ok(Steady {
        commits,
        renewals: written - commits,
        longest_gap: story.longest_gap(),
    })
}
