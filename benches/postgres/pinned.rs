//! What a snapshot costs that stays open for the whole run.
//!
//! A snapshot holds back what may be cleaned up in its own database only, so two databases of one
//! server take turns, one of them with a snapshot.

use std::sync::Arc;
use std::time::Instant;

use flowstream::Ranges;
use flowstream::storage::{
    Append, Id, Lease, Partition, PostgresOptions, PostgresStorage, RecordsBuilder, Row, Storage,
};
use sqlx::postgres::PgConnection;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::common::growth::claimed;
use crate::harness::Bench;
use crate::raw::connect;
use crate::server::{Database, Link, Server};
use crate::support::{Flavour, SIZE, message, run, thousands};
use crate::table::{Bar, Beside, Figure, Samples, Unit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Appends,
    Commits,
    UpdatedHeads,
    UpdatedGroups,
}

impl Work {
    const ALL: [Self; 4] = [
        Self::Appends,
        Self::Commits,
        Self::UpdatedHeads,
        Self::UpdatedGroups,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Appends => "appends",
            Self::Commits => "commits",
            Self::UpdatedHeads => "appends by UPDATE heads",
            Self::UpdatedGroups => "commits by UPDATE groups",
        }
    }
}

/// A figure is of so many parts, which take turns.
const PARTS: usize = 10;

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    for work in Work::ALL {
        let (figures, each) = match work {
            Work::Appends | Work::Commits => (10, 10_000),
            Work::UpdatedHeads | Work::UpdatedGroups => (4, 5_000),
        };
        let each = if bench.quick { each / 100 } else { each };
        let name = |index: usize| {
            let (from, to) = (thousands(index * each), thousands((index + 1) * each));
            format!("pinned: {}, {from} to {to}", work.name())
        };
        if !(0..figures).any(|index| bench.wants(&name(index))) {
            continue;
        }
        let runtime = Flavour::Multi.runtime();
        let [free, pinned] = [(); 2].map(|()| Place::new(server, &runtime));
        let _snapshot = pinned.pin(&runtime);
        let mut done = 0;
        for index in 0..figures {
            let (mut own, mut beside) = (Vec::new(), Vec::new());
            for _ in 0..PARTS {
                let count = each / PARTS;
                beside.push(free.run(&runtime, work, done..done + count));
                own.push(pinned.run(&runtime, work, done..done + count));
                done += count;
            }
            let is_last = index + 1 == figures && matches!(work, Work::Appends | Work::Commits);
            let beside = Beside {
                name: "without a snapshot",
                bar: is_last.then_some(Bar::AtLeast(0.9)),
                samples: Samples(beside),
            };
            let figure = Figure::new(name(index), Link::Socket.name(), Unit::Operations);
            bench.report(figure, Samples(own), vec![beside]);
        }
    }
}

/// A database with a stream, a group, and one connection for each.
struct Place<'a> {
    storage: Arc<PostgresStorage>,
    partition: Partition,
    lease: Lease,
    connection: Arc<Mutex<PgConnection>>,
    database: Database<'a>,
}

impl<'a> Place<'a> {
    fn new(server: &'a Server, runtime: &Runtime) -> Self {
        let database = Database::new(server);
        database.psql(include_str!("pinned.sql"));
        let url = database.url(Link::Socket);
        let (storage, lease, connection) = run(runtime, async move {
            let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
            let storage = storage.expect("a storage");
            let lease = claimed(&storage, "s", "g").await;
            (storage, lease, connect(&url).await)
        });
        Self {
            storage: Arc::new(storage),
            partition: lease.group.partition.clone(),
            lease,
            connection: Arc::new(Mutex::new(connection)),
            database,
        }
    }

    /// A snapshot that lasts as long as the connection.
    fn pin(&self, runtime: &Runtime) -> PgConnection {
        let url = self.database.url(Link::Socket);
        run(runtime, async move {
            let mut connection = connect(&url).await;
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM heads";
            let begun = sqlx::raw_sql(begin).execute(&mut connection).await;
            begun.expect("a snapshot");
            connection
        })
    }

    /// Operations a second, one by one.
    fn run(&self, runtime: &Runtime, work: Work, part: std::ops::Range<usize>) -> f64 {
        let (storage, lease) = (self.storage.clone(), self.lease.clone());
        let (partition, connection) = (self.partition.clone(), self.connection.clone());
        let builder: RecordsBuilder = std::iter::once(&message()).collect();
        let records = builder.build().expect("a batch");
        run(runtime, async move {
            let mut connection = connection.lock().await;
            let count = part.len();
            let began = Instant::now();
            for number in part {
                match work {
                    Work::Appends => {
                        let append = Append {
                            id: Id::random(),
                            after: None,
                            rows: vec![Row {
                                partition: partition.clone(),
                                records: records.clone(),
                            }],
                            commits: vec![],
                        };
                        let written = storage.append(Arc::new(append)).await;
                        written.expect("an append");
                    }
                    Work::Commits => {
                        let done = Ranges::from(number as u64..number as u64 + 1);
                        storage
                            .commit(&lease, &done.into())
                            .await
                            .expect("a commit");
                    }
                    Work::UpdatedHeads => update_head(&mut connection).await,
                    Work::UpdatedGroups => update_group(&mut connection, number as i64).await,
                }
            }
            count as f64 / began.elapsed().as_secs_f64()
        })
    }
}

async fn update_head(connection: &mut PgConnection) {
    let query = sqlx::query(
        "WITH head AS (
             UPDATE heads SET next = next + 1 WHERE stream = 1 RETURNING next - 1 AS base
         ) INSERT INTO log SELECT 1, base, $1 FROM head",
    );
    let written = query.bind(&[b'x'; SIZE][..]).execute(connection).await;
    written.expect("an append");
}

async fn update_group(connection: &mut PgConnection, position: i64) {
    let query = sqlx::query("UPDATE groups SET position = $1 WHERE name = 'g'");
    let written = query.bind(position).execute(connection).await;
    written.expect("a commit");
}
