//! Ways to append, in SQL: what the layout costs, and what another would.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::storage::{
    Append, Id, Name, Partition, PostgresOptions, PostgresStorage, RecordsBuilder, Row, Storage,
};
use sqlx::postgres::PgConnection;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::harness::{Bench, Contender, Limit};
use crate::raw::{Raw, connect};
use crate::server::{Database, Link, Server};
use crate::support::{Flavour, SIZE, message, run, thousands};
use crate::table::{Figure, Unit};

#[derive(Debug, Clone, Copy)]
enum Way {
    /// A function that takes the bodies as an array and does everything.
    Function,
    /// The offset from a function, the bodies as an array.
    Array,
    /// The offset from a function, the bodies in one piece and their ends.
    Ends,
    /// The same, on two connections at once.
    TwoInFlight,
    /// The same, ten rows a statement.
    TenRows,
}

impl Way {
    const ALL: [Self; 5] = [
        Self::Function,
        Self::Array,
        Self::Ends,
        Self::TwoInFlight,
        Self::TenRows,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Function => "all in a function, bytea[]",
            Self::Array => "offset only, bytea[]",
            Self::Ends => "offset only, bytea and ends",
            Self::TwoInFlight => "the same, two in flight",
            Self::TenRows => "the same, ten rows",
        }
    }

    /// Each has a partition of its own.
    fn stream(self) -> i32 {
        self as i32 + 1
    }
}

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    for batch in [1, 100, 1_000, 5_000] {
        let name = |way: &str| format!("ways, {}: {way}", thousands(batch));
        let figure = |way: &str| Figure::new(name(way), link.name(), Unit::Rate(SIZE));
        let names = Way::ALL.iter().map(|way| way.name()).chain(["as built"]);
        if !names.clone().any(|way| bench.wants(&name(way))) {
            continue;
        }
        let database = Database::new(server);
        database.psql(include_str!("ways.sql"));
        let runtime = Flavour::Multi.runtime();
        let url = database.url(link);
        let raw = Raw::connect(&runtime, url.clone());
        let connections = [(); 2].map(|()| {
            let url = url.clone();
            let connection = run(&runtime, async move { connect(&url).await });
            Arc::new(Mutex::new(connection))
        });
        let built = Built::open(&runtime, url);
        let window = bench.window / 2;
        let mut contenders: Vec<Contender<'_>> = Vec::new();
        for way in Way::ALL {
            let (runtime, connections) = (&runtime, &connections);
            let run = move || appending(runtime, connections, way, batch, window);
            contenders.push((figure(way.name()), Box::new(run)));
        }
        let run = || built.append(&runtime, batch, window);
        contenders.push((figure("as built"), Box::new(run)));
        let limit = Limit::new("blob", || [raw.blobs(&runtime, [batch, SIZE], window)]);
        bench.compare(contenders, limit);
    }
}

fn appending(
    runtime: &Runtime,
    connections: &[Arc<Mutex<PgConnection>>; 2],
    way: Way,
    batch: usize,
    window: Duration,
) -> f64 {
    let [first, second] = connections.clone().map(|connection| async move {
        let mut connection = connection.lock().await;
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < window {
            sent += append(&mut connection, way, batch).await;
        }
        sent as f64 / began.elapsed().as_secs_f64()
    });
    match way {
        Way::TwoInFlight => run(runtime, async {
            let (first, second) = (tokio::spawn(first), tokio::spawn(second));
            first.await.expect("it ran") + second.await.expect("it ran")
        }),
        _ => run(runtime, first),
    }
}

/// One statement: how many messages.
async fn append(connection: &mut PgConnection, way: Way, batch: usize) -> usize {
    let id = sqlx::types::Uuid::from_u128(Id::random().0);
    let stream = way.stream();
    let body = [b'x'; SIZE];
    let ends = |count: usize| (1..=count).map(|at| (at * SIZE) as i32).collect::<Vec<_>>();
    let (query, sent) = match way {
        Way::Function => (
            sqlx::query("SELECT append_array($1, 0, $2, $3)")
                .bind(stream)
                .bind(id)
                .bind(vec![&body[..]; batch]),
            batch,
        ),
        Way::Array => (
            sqlx::query(
                "INSERT INTO arrays (stream, partition, base_offset, count, batch_id, bodies)
                 VALUES ($1, 0, next_of_arrays($1, 0), $2, $3, $4)
                 ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
            )
            .bind(stream)
            .bind(batch as i32)
            .bind(id)
            .bind(vec![&body[..]; batch]),
            batch,
        ),
        Way::Ends | Way::TwoInFlight => (
            sqlx::query(
                "INSERT INTO ends (stream, partition, base_offset, count, batch_id, ends, bodies)
                 VALUES ($1, 0, next_of_ends($1, 0), $2, $3, $4, $5)
                 ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
            )
            .bind(stream)
            .bind(batch as i32)
            .bind(id)
            .bind(ends(batch))
            .bind(vec![b'x'; batch * SIZE]),
            batch,
        ),
        Way::TenRows => {
            let part = batch.div_ceil(10);
            let ids: Vec<_> = (0..10)
                .map(|_| sqlx::types::Uuid::from_u128(Id::random().0))
                .collect();
            let query = sqlx::query(
                "INSERT INTO ends (stream, partition, base_offset, count, batch_id, ends, bodies)
                 SELECT $1, 0, n.next + (r.n - 1) * $2, $2, r.id, $4, r.bodies
                 FROM (SELECT next_of_ends($1, 0) AS next) n,
                    unnest($3::uuid[], $5::bytea[]) WITH ORDINALITY r (id, bodies, n)
                 ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
            );
            let bodies = vec![b'x'; part * SIZE];
            let query = query
                .bind(stream)
                .bind(part as i32)
                .bind(ids)
                .bind(ends(part))
                .bind(vec![bodies; 10]);
            (query, part * 10)
        }
    };
    query.fetch_all(connection).await.expect("an append");
    sent
}

/// The storage, without what makes batches of messages.
struct Built(Arc<PostgresStorage>);

impl Built {
    fn open(runtime: &Runtime, url: String) -> Self {
        let storage = run(runtime, async move {
            let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
            let storage = storage.expect("a storage");
            let stream = Name::new("s").expect("a name");
            let created = storage.create_stream(&stream, Some(1)).await;
            created.expect("a stream");
            storage
        });
        Self(Arc::new(storage))
    }

    fn append(&self, runtime: &Runtime, batch: usize, window: Duration) -> f64 {
        let storage = self.0.clone();
        let builder: RecordsBuilder = std::iter::repeat_n(&message(), batch).collect();
        let records = builder.build().expect("a batch");
        let stream = Name::new("s").expect("a name");
        let partition = Partition { stream, index: 0 };
        run(runtime, async move {
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < window {
                let append = Append {
                    id: Id::random(),
                    after: None,
                    rows: vec![Row {
                        partition: partition.clone(),
                        records: records.clone(),
                    }],
                    commits: vec![],
                };
                storage.append(Arc::new(append)).await.expect("an append");
                sent += batch;
            }
            sent as f64 / began.elapsed().as_secs_f64()
        })
    }
}
