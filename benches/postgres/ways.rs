//! Ways to append, in SQL: what the layout costs, and what another would.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::Message;
use flowstream::storage::{Id, PostgresOptions, PostgresStorage};
use sqlx::postgres::PgConnection;
use sqlx::types::Uuid;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::common::built::Built;
use crate::harness::{Bench, Contender, Limit};
use crate::raw::{Raw, connect};
use crate::server::{Database, Link, Server};
use crate::support::{Flavour, SIZE, message, noise, run, thousands};
use crate::table::{Figure, Unit};

/// What of 100 bytes a message, with their ends, fits into a page beside the rest of the row.
const MESSAGES_OF_A_PAGE: usize = 75;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// A function that takes the bodies as an array and does everything.
    Function,
    /// The offset from a function, the bodies as an array.
    Array,
    /// The offset from a function, the bodies in one piece and their ends.
    Ends,
    /// The same, on two connections at once.
    TwoInFlight,
    /// One INSERT that calls nothing.
    Insert,
    /// The same, ten rows a statement.
    TenRows,
    /// The same, in rows that stay in the page.
    Inline,
    /// COPY, in its binary format.
    Copy,
    /// One INSERT of lines of JSON, which the server compresses.
    Pglz,
    Lz4,
    /// One INSERT of what the server tries to compress and cannot.
    Lz4Noise,
    /// One INSERT; what a checkpoint makes of the first change of a page is compressed in the WAL.
    WalLz4,
}

/// What is bound, made before the clock runs.
struct Rows {
    /// The messages of each.
    part: usize,
    count: usize,
    ends: Vec<u8>,
    bodies: Vec<u8>,
}

impl Way {
    const ALL: [Self; 12] = [
        Self::Function,
        Self::Array,
        Self::Ends,
        Self::TwoInFlight,
        Self::Insert,
        Self::TenRows,
        Self::Inline,
        Self::Copy,
        Self::Pglz,
        Self::Lz4,
        Self::Lz4Noise,
        Self::WalLz4,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Function => "all in a function, bytea[]",
            Self::Array => "offset only, bytea[]",
            Self::Ends => "offset only, bytea and ends",
            Self::TwoInFlight => "the same, two in flight",
            Self::Insert => "no function",
            Self::TenRows => "the same, ten rows",
            Self::Inline => "the same, rows of a page",
            Self::Copy => "COPY, binary",
            Self::Pglz => "no function, pglz of JSON",
            Self::Lz4 => "no function, lz4 of JSON",
            Self::Lz4Noise => "no function, lz4 of noise",
            Self::WalLz4 => "no function, wal_compression",
        }
    }

    /// Each has a partition of its own.
    fn stream(self) -> i32 {
        self as i32 + 1
    }

    fn table(self) -> &'static str {
        match self {
            Self::Inline => "plain",
            Self::Pglz => "pglz",
            Self::Lz4 | Self::Lz4Noise => "lz4",
            _ => "external",
        }
    }

    /// How many rows a batch is.
    fn count(self, batch: usize) -> usize {
        match self {
            Self::TenRows => batch.min(10),
            Self::Inline => batch.div_ceil(MESSAGES_OF_A_PAGE),
            _ => 1,
        }
    }

    fn rows(self, batch: usize) -> Rows {
        let count = self.count(batch);
        let part = batch.div_ceil(count);
        let ends = (1..=part).flat_map(|at| ((at * SIZE) as u32).to_le_bytes());
        let bodies = match self {
            Self::Pglz | Self::Lz4 => (0..part).flat_map(line).collect(),
            _ => noise(part * SIZE),
        };
        Rows {
            part,
            count,
            ends: ends.collect(),
            bodies,
        }
    }
}

/// As an application may send it: a few fields, half of it numbers.
fn line(at: usize) -> Vec<u8> {
    let id = Id::random().0 as u64;
    let mut line = format!(
        r#"{{"order":"{id:016x}","customer":{},"total_cents":{},"currency":"EUR","state":"paid""#,
        1_000_000 + id % 7_919,
        at * 97 % 100_000,
    );
    let left = (SIZE - 1).saturating_sub(line.len());
    let _ = write!(line, "{:left$}}}", "");
    line.truncate(SIZE);
    line.into_bytes()
}

pub(crate) fn measure(bench: &mut Bench, server: &Server, link: Link) {
    for batch in [1, 100, 1_000, 5_000] {
        let name = |way: &str| format!("ways, {}: {way}", thousands(batch));
        let figure = |way: &str| Figure::new(name(way), link.name(), Unit::Rate(SIZE));
        let names = Way::ALL
            .iter()
            .map(|way| way.name())
            .chain(["as built", "as built, JSON"]);
        if !names.clone().any(|way| bench.wants(&name(way))) {
            continue;
        }
        let database = Database::new(server);
        database.psql(include_str!("ways.sql"));
        let has_lz4 = "SELECT 'lz4' = ANY (enumvals) FROM pg_settings
                       WHERE name = 'default_toast_compression'";
        let has_lz4 = database.psql(has_lz4).trim() == "t";
        if has_lz4 {
            database.psql(
                "CREATE TABLE lz4 (LIKE pglz INCLUDING ALL);
                 ALTER TABLE lz4 ALTER COLUMN bodies SET COMPRESSION lz4",
            );
        }
        let runtime = Flavour::Multi.runtime();
        let url = database.url(link);
        let raw = Raw::connect(&runtime, url.clone());
        let connections = [(); 2].map(|()| {
            let url = url.clone();
            let connection = run(&runtime, async move { connect(&url).await });
            Arc::new(Mutex::new(connection))
        });
        let built = built(&runtime, url);
        let messages: Vec<_> = (0..batch).map(|_| message()).collect();
        let lines: Vec<_> = (0..batch).map(|at| Message::new(line(at))).collect();
        let window = bench.window / 2;
        let mut contenders: Vec<Contender<'_>> = Vec::new();
        for way in Way::ALL {
            let is_missing = !has_lz4 && matches!(way, Way::Lz4 | Way::Lz4Noise | Way::WalLz4);
            let is_one = way.count(batch) == 1 && matches!(way, Way::TenRows | Way::Inline);
            if is_missing || is_one {
                continue;
            }
            let (runtime, connections) = (&runtime, &connections);
            let run = move || appending(runtime, connections, way, batch, window);
            contenders.push((figure(way.name()), Box::new(run)));
        }
        let run = || built.append(&runtime, &messages, window);
        contenders.push((figure("as built"), Box::new(run)));
        let run = || built.append(&runtime, &lines, window);
        contenders.push((figure("as built, JSON"), Box::new(run)));
        let limit = Limit::new("blob", || [raw.blobs(&runtime, [batch, SIZE], window)]);
        bench.compare(contenders, limit);
    }
}

/// The storage, without what makes batches of messages.
fn built(runtime: &Runtime, url: String) -> Built {
    let storage = run(runtime, async move {
        let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
        storage.expect("a storage")
    });
    Built::new(runtime, storage)
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
        let rows = way.rows(batch);
        set(&mut connection, way, "lz4").await;
        let began = Instant::now();
        let mut sent = 0;
        while began.elapsed() < window {
            append(&mut connection, way, &rows).await;
            sent += rows.part * rows.count;
        }
        let rate = sent as f64 / began.elapsed().as_secs_f64();
        set(&mut connection, way, "off").await;
        rate
    });
    match way {
        Way::TwoInFlight => run(runtime, async {
            let (first, second) = (tokio::spawn(first), tokio::spawn(second));
            first.await.expect("it ran") + second.await.expect("it ran")
        }),
        _ => run(runtime, first),
    }
}

async fn set(connection: &mut PgConnection, way: Way, compression: &str) {
    if way == Way::WalLz4 {
        let set = format!("SET wal_compression = {compression}");
        connection.execute(AssertSqlSafe(set)).await.expect("set");
    }
}

/// One statement.
async fn append(connection: &mut PgConnection, way: Way, rows: &Rows) {
    let id = || Uuid::from_u128(Id::random().0);
    let stream = way.stream();
    let part = rows.part as i32;
    let bodies: &[u8] = &rows.bodies;
    let messages = || bodies.chunks(SIZE).collect::<Vec<_>>();
    // Locks the partition, and says where its log ends.
    let place = |table: &str| {
        format!(
            "(SELECT FROM partitions WHERE stream = $1 AND partition = 0 FOR NO KEY UPDATE) p
             LEFT JOIN LATERAL (
                SELECT base_offset + count AS next FROM {table} WHERE stream = $1 AND partition = 0
                ORDER BY base_offset DESC LIMIT 1
             ) last ON true"
        )
    };
    let one = || {
        format!(
            "INSERT INTO {0} (stream, partition, base_offset, count, batch_id, ends, bodies)
             SELECT $1, 0, coalesce(last.next, 0), $2, $3, $4, $5
             FROM {1}
             ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
            way.table(),
            place(way.table()),
        )
    };
    let several = || {
        format!(
            "INSERT INTO {0} (stream, partition, base_offset, count, batch_id, ends, bodies)
             SELECT $1, 0, coalesce(last.next, 0) + (r.n - 1) * $2, $2, r.id, $4, r.bodies
             FROM {1}
             CROSS JOIN unnest($3::uuid[], $5::bytea[]) WITH ORDINALITY r (id, bodies, n)
             ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
            way.table(),
            place(way.table()),
        )
    };
    let query = match way {
        Way::Copy => return copy(connection, stream, rows).await,
        Way::Function => sqlx::query("SELECT append_array($1, 0, $2, $3)")
            .bind(stream)
            .bind(id())
            .bind(messages()),
        Way::Array => sqlx::query(
            "INSERT INTO arrays (stream, partition, base_offset, count, batch_id, bodies)
             VALUES ($1, 0, next_of_arrays($1, 0), $2, $3, $4)
             ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
        )
        .bind(stream)
        .bind(part)
        .bind(id())
        .bind(messages()),
        Way::Ends | Way::TwoInFlight => sqlx::query(
            "INSERT INTO external (stream, partition, base_offset, count, batch_id, ends, bodies)
             VALUES ($1, 0, next_of_external($1, 0), $2, $3, $4, $5)
             ON CONFLICT (batch_id, stream, partition) DO NOTHING RETURNING base_offset",
        )
        .bind(stream)
        .bind(part)
        .bind(id())
        .bind(&rows.ends)
        .bind(bodies),
        Way::Insert | Way::Pglz | Way::Lz4 | Way::Lz4Noise | Way::WalLz4 => {
            sqlx::query(AssertSqlSafe(one()))
                .bind(stream)
                .bind(part)
                .bind(id())
                .bind(&rows.ends)
                .bind(bodies)
        }
        Way::TenRows | Way::Inline => sqlx::query(AssertSqlSafe(several()))
            .bind(stream)
            .bind(part)
            .bind((0..rows.count).map(|_| id()).collect::<Vec<_>>())
            .bind(&rows.ends)
            .bind(vec![bodies; rows.count]),
    };
    query.fetch_all(connection).await.expect("an append");
}

/// The offset is given by a trigger.
async fn copy(connection: &mut PgConnection, stream: i32, rows: &Rows) {
    let mut bytes = Vec::with_capacity(rows.ends.len() + rows.bodies.len() + 200);
    bytes.extend(b"PGCOPY\n\xff\r\n\0");
    // No flags, no more of the head.
    bytes.extend([0; 8]);
    let id = Id::random().0.to_be_bytes();
    let fields: [&[u8]; 7] = [
        &stream.to_be_bytes(),
        &0_i32.to_be_bytes(),
        &0_i64.to_be_bytes(),
        &(rows.part as i32).to_be_bytes(),
        &id,
        &rows.ends,
        &rows.bodies,
    ];
    bytes.extend((fields.len() as i16).to_be_bytes());
    for field in fields {
        bytes.extend((field.len() as i32).to_be_bytes());
        bytes.extend(field);
    }
    bytes.extend((-1_i16).to_be_bytes());
    let statement = "COPY copied (stream, partition, base_offset, count, batch_id, ends, bodies)
                     FROM STDIN (FORMAT binary)";
    let mut copy = connection.copy_in_raw(statement).await.expect("a COPY");
    copy.send(bytes).await.expect("all of it");
    copy.finish().await.expect("an append");
}
