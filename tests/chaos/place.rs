//! The server that the crew works with, its standby, and the network between.

use std::time::{Duration, Instant};

use flowstream::{Flowstream, Options};
use tokio::runtime::Runtime;

use crate::dice::Dice;
use crate::postgres_support::proxy::{Network, Proxy};
use crate::postgres_support::{Cluster, Stop};
use crate::process_support::history::PATIENCE;
use crate::process_support::ledger;

pub(crate) const SETTINGS: &[(&str, &str)] = &[("max_connections", "300")];

/// One server behind a network that can fail.
pub(crate) struct Place {
    cluster: Cluster,
    standby: Option<Cluster>,
    proxy: Proxy,
    pub(crate) database: String,
    pub(crate) flow: Flowstream,
    pub(crate) runtime: Runtime,
}

impl Place {
    pub(crate) fn new(cluster: Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let database = cluster.database();
        let proxy = runtime.block_on(Proxy::start(cluster.port()));
        let options = Options::new().retry_for(PATIENCE);
        let flow = runtime.block_on(options.open(&proxy.url(&database)));
        ledger::keep(&cluster, &database);
        Self {
            cluster,
            standby: None,
            proxy,
            database,
            flow: flow.expect("it opens"),
            runtime,
        }
    }

    /// What is in a server that nobody works with any more.
    pub(crate) fn open(&self, cluster: &Cluster) -> Flowstream {
        let url = cluster.url(&self.database);
        self.runtime
            .block_on(flowstream::open(&url))
            .expect("it opens")
    }

    /// Where the crew finds it.
    pub(crate) fn url(&self) -> String {
        self.proxy.url(&self.database)
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    pub(crate) fn set(&self, network: Network) {
        self.proxy.set(network);
    }

    /// Stops the server and starts it again.
    pub(crate) fn restart(&self, how: Stop) {
        self.cluster.stop(how);
        self.cluster.start();
    }

    /// `kill -9` of any backend, at which the server ends all others and recovers.
    pub(crate) fn kill_backend(&self, dice: &mut Dice) -> bool {
        let pid = dice.pick(&self.backends(ANY));
        pid.is_some_and(|pid| self.cluster.try_signal(pid, "KILL"))
    }

    /// Ends the session of any backend.
    pub(crate) fn end_session(&self, dice: &mut Dice) -> bool {
        let pid = dice.pick(&self.backends(ANY));
        pid.is_some_and(|pid| self.terminate(pid))
    }

    /// Ends the session of any process' listener.
    pub(crate) fn end_listener(&self, dice: &mut Dice) -> bool {
        let pid = dice.pick(&self.backends(LISTENERS));
        pid.is_some_and(|pid| self.terminate(pid))
    }

    /// Ends the sessions of all.
    pub(crate) fn end_all_sessions(&self) -> bool {
        let all = ANY.replace("SELECT pid", "SELECT count(pg_terminate_backend(pid))");
        self.ask(&all).is_some_and(|count| count != "0")
    }

    fn terminate(&self, pid: u32) -> bool {
        let ended = self.ask(&format!("SELECT pg_terminate_backend({pid})"));
        ended.is_some_and(|ended| ended == "t")
    }

    fn backends(&self, sql: &str) -> Vec<u32> {
        let pids = self.ask(sql).unwrap_or_default();
        pids.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// What the server answers, if it does.
    pub(crate) fn ask(&self, sql: &str) -> Option<String> {
        let answer = self.cluster.try_psql(&self.database, sql).ok()?;
        Some(answer.trim().to_owned())
    }

    /// Whether something can be seen at the server that its standby does not have.
    pub(crate) fn standby_lacks_some(&self) -> bool {
        let count = "SELECT count(*) FROM flowstream.batches";
        let here = self.ask(count).expect("the server answers");
        here != self.standby().psql(&self.database, count).trim()
    }

    /// Everything works again.
    pub(crate) fn heal(&self) {
        self.proxy.set(Network::Works);
        if self.cluster.pid().is_none() {
            self.cluster.start();
        }
        self.until("the server answers", || self.ask("SELECT 1").is_some());
    }

    /// From now on nothing is acknowledged before a standby has it.
    pub(crate) fn follow_synchronously(&mut self) {
        self.follow();
        self.ask("ALTER SYSTEM SET synchronous_standby_names = '*'");
        // All sessions know it then.
        self.restart(Stop::Fast);
        self.until_followed("sync_state = 'sync'");
    }

    /// A standby that may be behind.
    pub(crate) fn follow(&mut self) {
        let standby = self.cluster.standby();
        // It comes back soon after a restart.
        for sql in [
            "ALTER SYSTEM SET wal_retrieve_retry_interval = '100ms'",
            "SELECT pg_reload_conf()",
        ] {
            standby.psql("postgres", sql);
        }
        self.standby = Some(standby);
        self.until_followed("true");
    }

    pub(crate) fn standby(&self) -> &Cluster {
        self.standby.as_ref().expect("a standby")
    }

    /// Waits until the standby follows.
    pub(crate) fn until_followed(&self, how: &str) {
        let sql =
            format!("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND {how}");
        self.until("the standby follows", || {
            self.ask(&sql).is_some_and(|count| count != "0")
        });
    }

    /// The server is gone, and its standby takes its place: gives the one that was.
    pub(crate) fn fail_over(&mut self) -> Cluster {
        self.cluster.stop(Stop::Immediate);
        self.promote()
    }

    /// The standby takes the place of the server, which runs on: gives that.
    pub(crate) fn promote(&mut self) -> Cluster {
        let standby = self.standby.take().expect("a standby");
        standby.promote();
        self.proxy.lead_to(standby.port());
        std::mem::replace(&mut self.cluster, standby)
    }

    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const ANY: &str = "SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND backend_type = 'client backend' AND pid <> pg_backend_pid()";

const LISTENERS: &str = "SELECT a.pid FROM flowstream.members m JOIN pg_stat_activity a
    ON a.pid = m.pid AND a.backend_start = m.backend_start";
