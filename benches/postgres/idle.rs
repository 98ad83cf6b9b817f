//! What consumers cost that have nothing to do.

use std::time::{Duration, Instant};

use crate::child::{Child, Role};
use crate::harness::Bench;
use crate::server::{Database, Link, Server};
use crate::support::thousands;
use crate::table::{Bar, Figure, Samples, Unit};

/// A session that has become idle counts its last transactions ten seconds later.
const SETTLE: Duration = Duration::from_secs(12);

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    let counts: &[usize] = if bench.quick {
        &[50]
    } else {
        &[10, 100, 1_000]
    };
    for count in counts {
        let figure = |of: &str, unit| {
            let name = format!("idle: {of}, {} consumers", thousands(*count));
            Figure::new(name, Link::Socket.name(), unit)
        };
        // One query a second, for all.
        let transactions = figure("transactions", Unit::Operations).bar(Bar::AtMost(1.0));
        let memory = figure("memory of each", Unit::Memory);
        let memory = match count {
            1_000 => memory.bar(Bar::AtMost(20e3)),
            _ => memory,
        };
        if !bench.wants(&transactions.name) && !bench.wants(&memory.name) {
            continue;
        }
        let database = Database::new(server);
        // Each on a stream of its own: what is watched is as much as can be. In a process of their
        // own: nothing that was used before is used again.
        let url = database.url(Link::Socket);
        let mut consumers = Child::start(Role::Idle, &url, &count.to_string());
        let bytes = consumers.hear();
        std::thread::sleep(SETTLE);
        let windows = if bench.quick { 1 } else { 3 };
        let counted = || {
            let name = &database.name;
            let sql = format!(
                "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"
            );
            server.number("postgres", &sql)
        };
        let samples = (0..windows).map(|_| {
            let (before, began) = (counted(), Instant::now());
            std::thread::sleep(Duration::from_secs(if bench.quick { 2 } else { 10 }));
            (counted() - before) / began.elapsed().as_secs_f64()
        });
        bench.report(transactions, Samples(samples.collect()), vec![]);
        // Not every system says.
        if bytes.is_finite() {
            bench.report(memory, Samples(vec![bytes]), vec![]);
        }
    }
}
