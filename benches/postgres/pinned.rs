//! What a snapshot costs that stays open for the whole run.
//!
//! A snapshot holds back what may be cleaned up in its own database only, so two databases of one
//! server take turns, one of them with a snapshot.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::storage::{Lease, Partition, PostgresOptions, PostgresStorage, Storage};
use flowstream::{Consumer, Flowstream, Options, Ranges};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::common::growth::{append, claimed, fill};
use crate::harness::Bench;
use crate::postgres_support::copies_of_long_ago;
use crate::raw::connect;
use crate::server::{Database, Link, Server};
use crate::support::{Flavour, SIZE, message, run, thousands};
use crate::table::{Bar, Beside, Figure, Samples, Unit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Appends,
    Commits,
    /// Transactions of an application that append, and the moves into the log.
    Outbox,
    /// Transactions of an application that commit a delivery, folded into the ledger.
    Acks,
    Trims,
    UpdatedHeads,
    UpdatedGroups,
}

impl Work {
    const ALL: [Self; 7] = [
        Self::Appends,
        Self::Commits,
        Self::Outbox,
        Self::Acks,
        Self::Trims,
        Self::UpdatedHeads,
        Self::UpdatedGroups,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Appends => "appends",
            Self::Commits => "commits",
            Self::Outbox => "outbox moves",
            Self::Acks => "acks folded",
            Self::Trims => "trims",
            Self::UpdatedHeads => "appends by UPDATE heads",
            Self::UpdatedGroups => "commits by UPDATE groups",
        }
    }

    /// Whether it is what this crate does.
    fn is_ours(self) -> bool {
        !matches!(self, Self::UpdatedHeads | Self::UpdatedGroups)
    }
}

/// A figure is of so many parts, which take turns.
const PARTS: usize = 10;

pub(crate) fn measure(bench: &mut Bench, server: &Server) {
    for work in Work::ALL {
        let (figures, each) = match work.is_ours() {
            _ if bench.quick => (2, 20),
            true => (10, 20_000),
            false => (4, 5_000),
        };
        let name = |index: usize| {
            let (from, to) = (thousands(index * each), thousands((index + 1) * each));
            format!("pinned: {}, {from} to {to}", work.name())
        };
        if !(0..figures).any(|index| bench.wants(&name(index))) {
            continue;
        }
        let runtime = Flavour::Multi.runtime();
        let [free, pinned] = [(); 2].map(|()| Place::new(server, &runtime, work, figures * each));
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
            let is_last = index + 1 == figures && work.is_ours();
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
    // Go first, while there is a database.
    consumer: Option<Arc<Mutex<Consumer>>>,
    flow: Flowstream,
    storage: Arc<PostgresStorage>,
    lease: Lease,
    connection: Arc<Mutex<PgConnection>>,
    database: Database<'a>,
}

impl<'a> Place<'a> {
    /// With what so much work needs.
    fn new(server: &'a Server, runtime: &Runtime, work: Work, count: usize) -> Self {
        let database = Database::new(server);
        database.psql(include_str!("pinned.sql"));
        let url = database.url(Link::Socket);
        let (storage, lease, connection) = run(runtime, async move {
            let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
            let storage = Arc::new(storage.expect("a storage"));
            let lease = claimed(&*storage, "s", "g").await;
            (storage, lease, connect(&url).await)
        });
        let _guard = runtime.enter();
        let mut place = Self {
            consumer: None,
            flow: Options::new().open_storage(storage.clone()),
            storage,
            lease,
            connection: Arc::new(Mutex::new(connection)),
            database,
        };
        match work {
            Work::Acks => {
                place.fill(runtime, count);
                let flow = place.flow.clone();
                let consumer = run(runtime, async move { flow.consumer("s", "acks").await });
                let consumer = consumer.expect("a consumer");
                place.consumer = Some(Arc::new(Mutex::new(consumer)));
            }
            Work::Trims => place.fill_with_old(runtime, count),
            _ => {}
        }
        place
    }

    fn fill(&self, runtime: &Runtime, count: usize) {
        let (storage, partition) = (self.storage.clone(), self.partition());
        run(runtime, async move {
            fill(&*storage, &partition, count.next_multiple_of(1_000)).await;
        });
    }

    /// So many batches of a message each that are old enough to be deleted, and some that stay.
    fn fill_with_old(&self, runtime: &Runtime, count: usize) {
        let (storage, partition) = (self.storage.clone(), self.partition());
        run(
            runtime,
            async move { append(&*storage, &partition, 1).await },
        );
        let copies = copies_of_long_ago(count + 2_000);
        self.database.psql(&copies);
        self.database.psql("VACUUM ANALYZE");
        self.database.psql("CHECKPOINT");
    }

    fn partition(&self) -> Partition {
        self.lease.group.partition.clone()
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
    fn run(&self, runtime: &Runtime, work: Work, part: Range<usize>) -> f64 {
        let (storage, lease) = (self.storage.clone(), self.lease.clone());
        let (partition, connection) = (self.partition(), self.connection.clone());
        let (flow, consumer) = (self.flow.clone(), self.consumer.clone());
        run(runtime, async move {
            let mut connection = connection.lock().await;
            let count = part.len();
            let end = part.end as u64;
            let began = Instant::now();
            match work {
                Work::Outbox => {
                    let mut producer = flow.producer("s").await.expect("a producer");
                    for _ in part {
                        let mut tx = connection.begin().await.expect("a transaction");
                        let appended = producer.append_in(&mut tx, message()).await;
                        appended.expect("an append");
                        postgres::commit(tx).await.expect("a commit");
                    }
                    while flow.bounds("s").await.expect("a stream")[0].end < end {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                Work::Acks => {
                    let consumer = consumer.expect("a consumer");
                    let mut consumer = consumer.lock().await;
                    for _ in part {
                        let delivery = consumer.try_next().await.expect("a delivery");
                        let delivery = delivery.expect("a consumer that was not shut down");
                        let mut tx = connection.begin().await.expect("a transaction");
                        delivery.commit_in(&mut tx).await.expect("it is ours");
                        postgres::commit(tx).await.expect("a commit");
                    }
                }
                Work::Appends => {
                    for _ in part {
                        append(&*storage, &partition, 1).await;
                    }
                }
                Work::Commits => {
                    for number in part {
                        let done = Ranges::from(number as u64..number as u64 + 1);
                        let committed = storage.commit(&lease, &done.into()).await;
                        committed.expect("a commit");
                    }
                }
                Work::Trims => {
                    for number in part {
                        let before = number as u64 + 1;
                        let start = storage.trim(&partition, before).await;
                        assert_eq!(start.expect("a trim"), before);
                    }
                }
                Work::UpdatedHeads => {
                    for _ in part {
                        update_head(&mut connection).await;
                    }
                }
                Work::UpdatedGroups => {
                    for number in part {
                        update_group(&mut connection, number as i64).await;
                    }
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
