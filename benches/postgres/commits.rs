//! Commits of one message each: one by one, many at a time, and beyond many that are not done.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flowstream::storage::{Lease, PostgresOptions, PostgresStorage, Ranges, Storage};
use futures::{StreamExt, TryStreamExt};
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use tokio::sync::Mutex;

use crate::common::growth::{claimed, separated};
use crate::drain::fill;
use crate::harness::{Bench, Limit};
use crate::raw::connect;
use crate::server::{Link, Opened, Server};
use crate::support::run;
use crate::table::{Bar, Figure, Unit};

/// How many are not done while many that come after them are.
const GAPS: u64 = 1_000;

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    const ALONE: &str = "commit, one by one";
    let many = [64, 512].map(|count| (count, format!("commit, {count} at a time")));
    let scattered = format!("commit, beyond {} gaps", separated(GAPS as usize));
    let names = many.iter().map(|(_, name)| &**name);
    let is_wanted = names
        .chain([ALONE, &scattered])
        .any(|name| bench.wants(name));
    if !is_wanted {
        return;
    }
    let opened = Opened::new(server, link);
    fill(&opened, bench.count(1_000_000), 1_000);
    let window = bench.window;
    let figure = |name: &str| Figure::new(name, link.name(), Unit::Operations);
    let groups = AtomicUsize::new(0);
    let commits = |count| {
        let group = format!("g{}", groups.fetch_add(1, Ordering::Relaxed));
        committing(&opened, group, count, window)
    };
    let bare = Bare::new(&opened);
    bench.measure(
        [figure(ALONE)],
        || [commits(1)],
        vec![
            Limit::new("the same statement", || [bare.run(&opened, window)]).bar(Bar::AtLeast(0.8)),
        ],
    );
    for (count, name) in many {
        bench.measure(
            [figure(&name)],
            || [commits(count)],
            vec![
                Limit::new("one by one, so often", || [commits(1) * count as f64])
                    .bar(Bar::AtLeast(0.5)),
            ],
        );
    }
    let [gappy, even] = [GAPS, 0].map(|gaps| Group::new(&opened, gaps));
    bench.measure(
        [figure(&scattered)],
        || [gappy.run(&opened, window)],
        vec![
            Limit::new("beyond none", || [even.run(&opened, window)]).bar(Bar::AtLeast(1.0 / 3.0)),
        ],
    );
}

/// A group in which so many messages are not done, each of them before one that is.
struct Group {
    storage: Arc<PostgresStorage>,
    lease: Lease,
    next: AtomicU64,
}

impl Group {
    fn new(opened: &Opened<'_>, gaps: u64) -> Self {
        let url = opened.url();
        run(&opened.runtime, async move {
            let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
            let storage = storage.expect("a storage");
            let lease = claimed(&storage, "s", &format!("gaps{gaps}")).await;
            let done: Ranges = (0..gaps).map(|gap| 2 * gap + 1..2 * gap + 2).collect();
            let committed = storage.commit(&lease, &done.into()).await;
            committed.expect("a commit");
            Self {
                storage: Arc::new(storage),
                lease,
                next: AtomicU64::new(2 * gaps),
            }
        })
    }

    /// Commits a second, one by one. There are as many gaps as before.
    fn run(&self, opened: &Opened<'_>, window: Duration) -> f64 {
        let (storage, lease) = (self.storage.clone(), self.lease.clone());
        let first = self.next.load(Ordering::Relaxed);
        let (next, rate) = run(&opened.runtime, async move {
            let began = Instant::now();
            let mut next = first;
            while began.elapsed() < window {
                let done = Ranges::from(next..next + 1);
                let committed = storage.commit(&lease, &done.into()).await;
                committed.expect("a commit");
                next += 1;
            }
            (next, (next - first) as f64 / began.elapsed().as_secs_f64())
        });
        self.next.store(next, Ordering::Relaxed);
        rate
    }
}

/// Commits a second of a group that has done nothing yet, so many at a time.
fn committing(opened: &Opened<'_>, group: String, at_a_time: usize, window: Duration) -> f64 {
    let flow = opened.flow.clone();
    run(&opened.runtime, async move {
        let consumer = flow.consumer("s", group).await;
        let mut consumer = consumer.expect("a consumer");
        let control = consumer.control();
        // The lease is claimed with the first.
        let first = consumer.try_next().await.expect("a delivery");
        let first = first.expect("a consumer that was not shut down");
        first.commit().await.expect("a commit");
        let began = Instant::now();
        let done = &AtomicUsize::new(0);
        (&mut consumer)
            .take_while(|_| ready(began.elapsed() < window))
            .try_for_each_concurrent(at_a_time, async |delivery| {
                delivery.commit().await?;
                done.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .await
            .expect("all committed");
        let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        control.shutdown().await;
        rate
    })
}

/// The statement of the storage, without it.
struct Bare {
    lease: Lease,
    /// Beside the next offset.
    connection: Arc<Mutex<(PgConnection, i64)>>,
}

impl Bare {
    fn new(opened: &Opened<'_>) -> Self {
        let url = opened.url();
        run(&opened.runtime, async move {
            let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
            let lease = claimed(&storage.expect("a storage"), "s", "bare").await;
            let connection = Arc::new(Mutex::new((connect(&url).await, 0)));
            Self { lease, connection }
        })
    }

    fn run(&self, opened: &Opened<'_>, window: Duration) -> f64 {
        let (lease, connection) = (self.lease.clone(), self.connection.clone());
        run(&opened.runtime, async move {
            let mut connection = connection.lock().await;
            let (connection, next) = &mut *connection;
            let began = Instant::now();
            let first = *next;
            while began.elapsed() < window {
                let query = sqlx::query(
                    r#"SELECT "position", acked FROM flowstream.commit($1, 0, $2, $3, $4, $5, $6, $7)"#,
                );
                let committed = query
                    .bind(lease.group.partition.stream.as_str())
                    .bind(lease.group.name.as_str())
                    .bind(Uuid::from_u128(lease.owner.0))
                    .bind(lease.epoch as i64)
                    .bind(format!("{{[{next},{})}}", *next + 1))
                    .bind(Vec::<i64>::new())
                    .bind(Vec::<i32>::new())
                    .fetch_one(&mut *connection)
                    .await;
                committed.expect("a commit");
                *next += 1;
            }
            (*next - first) as f64 / began.elapsed().as_secs_f64()
        })
    }
}
