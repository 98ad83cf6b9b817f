//! What the server can do without this crate: one connection, prepared statements.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Connection, Row};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::support::{noise, run};

pub(crate) const INSERT_BLOB: &str = "INSERT INTO blobs (body) VALUES ($1)";

pub(crate) async fn connect(url: &str) -> PgConnection {
    let options: PgConnectOptions = url.parse().expect("a URL");
    let connection = options.disable_statement_logging().connect().await;
    connection.expect("a connection")
}

pub(crate) async fn insert_blob(connection: &mut PgConnection, blob: &[u8]) {
    let query = sqlx::query(INSERT_BLOB).bind(blob);
    query.execute(connection).await.expect("a blob");
}

/// A row a message, in one statement.
pub(crate) async fn insert_rows(connection: &mut PgConnection, bodies: &[&[u8]]) {
    let query = sqlx::query("INSERT INTO rows (body) SELECT unnest($1::bytea[])").bind(bodies);
    query.execute(connection).await.expect("rows");
}

/// A connection, used by one window after the other.
#[derive(Clone)]
pub(crate) struct Raw(Arc<Mutex<PgConnection>>);

impl Raw {
    pub(crate) fn connect(runtime: &Runtime, url: String) -> Self {
        let connection = run(runtime, async move { connect(&url).await });
        Self(Arc::new(Mutex::new(connection)))
    }

    /// Messages a second, with so many in a blob.
    pub(crate) fn blobs(
        &self,
        runtime: &Runtime,
        [batch, size]: [usize; 2],
        window: Duration,
    ) -> f64 {
        let raw = self.0.clone();
        run(runtime, async move {
            let mut connection = raw.lock().await;
            let blob = noise(batch * size);
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < window {
                insert_blob(&mut connection, &blob).await;
                sent += batch;
            }
            sent as f64 / began.elapsed().as_secs_f64()
        })
    }

    /// Messages a second, with so many in a statement and a row each.
    pub(crate) fn rows(
        &self,
        runtime: &Runtime,
        [batch, size]: [usize; 2],
        window: Duration,
    ) -> f64 {
        let raw = self.0.clone();
        run(runtime, async move {
            let mut connection = raw.lock().await;
            let body = noise(size);
            let bodies = vec![&body[..]; batch];
            let began = Instant::now();
            let mut sent = 0;
            while began.elapsed() < window {
                insert_rows(&mut connection, &bodies).await;
                sent += batch;
            }
            sent as f64 / began.elapsed().as_secs_f64()
        })
    }

    /// Reads all blobs, about 1 MiB a statement, and notes the place after each `step` messages of
    /// `size` bytes. Messages a second.
    pub(crate) fn drain(&self, runtime: &Runtime, [step, size]: [usize; 2]) -> f64 {
        let raw = self.0.clone();
        run(runtime, async move {
            let mut connection = raw.lock().await;
            let began = Instant::now();
            let (mut last, mut read, mut noted) = (0_i64, 0, 0);
            loop {
                let rows = fetch(&mut connection, last).await;
                if rows.is_empty() {
                    return read as f64 / began.elapsed().as_secs_f64();
                }
                for row in rows {
                    last = row.get(0);
                    let body: Vec<u8> = row.get(1);
                    read += body.len() / size;
                    while read - noted >= step {
                        noted += step;
                        note(&mut connection, noted as i64).await;
                    }
                }
            }
        })
    }

    /// Reads all blobs, and writes each into another table, with the place, in one transaction.
    /// Messages of `size` bytes a second.
    pub(crate) fn forward(&self, runtime: &Runtime, size: usize) -> f64 {
        let raw = self.0.clone();
        run(runtime, async move {
            let mut connection = raw.lock().await;
            let began = Instant::now();
            let (mut last, mut read) = (0_i64, 0);
            loop {
                let rows = fetch(&mut connection, last).await;
                if rows.is_empty() {
                    return read as f64 / began.elapsed().as_secs_f64();
                }
                for row in rows {
                    last = row.get(0);
                    let body: Vec<u8> = row.get(1);
                    read += body.len() / size;
                    let mut tx = connection.begin().await.expect("a transaction");
                    let query = sqlx::query("INSERT INTO forwarded (body) VALUES ($1)");
                    query.bind(body).execute(&mut *tx).await.expect("a blob");
                    note(&mut tx, last).await;
                    tx.commit().await.expect("a commit");
                }
            }
        })
    }
}

/// About 1 MiB of blobs behind this one.
async fn fetch(connection: &mut PgConnection, last: i64) -> Vec<PgRow> {
    let query = sqlx::query(
        "SELECT id, body FROM blobs WHERE id > $1 ORDER BY id
         LIMIT greatest(1, (1 << 20) / (SELECT octet_length(body) FROM blobs LIMIT 1))",
    );
    query.bind(last).fetch_all(connection).await.expect("blobs")
}

async fn note(connection: &mut PgConnection, place: i64) {
    let query = sqlx::query("UPDATE places SET place = $1 WHERE reader = 1");
    let noted = query.bind(place).execute(connection).await;
    noted.expect("a place");
}
