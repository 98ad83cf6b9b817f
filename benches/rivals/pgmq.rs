//! pgmq, on the same server.

use std::time::{Duration, Instant};

use sqlx::postgres::PgConnection;

use crate::BATCH;
use crate::server::Server;
use crate::session::Session;
use crate::sides::{Rival, Rivals, per_second, rate};
use crate::support::SIZE;
use crate::table::Bar;

/// How many batches are read.
const BATCHES: usize = 50;

pub(crate) fn start(server: &Server) -> Result<Rivals<'_>, String> {
    Ok(vec![Box::new(Pgmq::new(server)?)])
}

struct Pgmq<'a> {
    session: Session<'a>,
    version: String,
}

impl<'a> Pgmq<'a> {
    /// As an extension where the server has it, else from a file.
    fn new(server: &'a Server) -> Result<Self, String> {
        let mut session = Session::new(server);
        let version = match session.script("CREATE EXTENSION pgmq") {
            Ok(()) => session.text("SELECT extversion FROM pg_extension WHERE extname = 'pgmq'"),
            Err(_) => {
                let variable = "FLOWSTREAM_PGMQ_SQL";
                let path = std::env::var(variable);
                let path = path.map_err(|_| {
                    format!("the server has no such extension, and {variable} names no SQL")
                })?;
                let sql = std::fs::read_to_string(&path);
                let sql = sql.map_err(|error| format!("{path}: {error}"))?;
                session.script(&sql)?;
                let version = std::fs::read_to_string(format!("{path}.version"));
                version.map_or_else(|_| "version unknown".into(), |text| text.trim().to_owned())
            }
        };
        for queue in ["produce", "consume", "delivery"] {
            session.script(&format!("SELECT pgmq.create('{queue}')"))?;
        }
        Ok(Self { session, version })
    }
}

impl Rival for Pgmq<'_> {
    fn name(&self) -> &'static str {
        "pgmq"
    }

    fn what(&self) -> String {
        format!("{}, the same server, fsync on", self.version)
    }

    fn bar(&self) -> Option<Bar> {
        Some(Bar::AtLeast(5.0))
    }

    fn produce(&mut self, window: Duration) -> f64 {
        rate(window, || {
            self.session
                .run(async |connection| send(connection, "produce", BATCH).await);
        })
    }

    fn consume(&mut self, part: usize) -> f64 {
        let batches = BATCHES / part;
        self.session.run(async |connection| {
            for _ in 0..batches {
                send(connection, "consume", BATCH).await;
            }
            let began = Instant::now();
            for _ in 0..batches {
                let query = sqlx::query_as(
                    "SELECT msg_id, message::text FROM pgmq.read('consume', 60, 1000)",
                );
                let read: Vec<(i64, String)> =
                    query.fetch_all(&mut *connection).await.expect("messages");
                assert_eq!(read.len(), BATCH);
                let ids = read.into_iter().map(|(id, _)| id).collect();
                delete(connection, "consume", ids).await;
            }
            per_second(batches, began)
        })
    }

    fn delivery(&mut self, count: usize) -> f64 {
        self.session.delivery(
            count,
            |mut connection, seen| async move {
                for _ in 0..count {
                    // Seconds until it is given up, milliseconds between two looks: the default.
                    let query = sqlx::query_as(
                        "SELECT msg_id, message::text
                         FROM pgmq.read_with_poll('delivery', 60, 1, 10, 100)",
                    );
                    let read: (i64, String) =
                        query.fetch_one(&mut connection).await.expect("a message");
                    seen.send(Instant::now()).expect("somebody who waits");
                    delete(&mut connection, "delivery", vec![read.0]).await;
                }
            },
            async |connection| send(connection, "delivery", 1).await,
        )
    }
}

/// The body is a string, which is JSON too.
async fn send(connection: &mut PgConnection, queue: &str, count: usize) {
    let body = format!("\"{}\"", "x".repeat(SIZE));
    let query = sqlx::query("SELECT count(*) FROM pgmq.send_batch($1, $2::text[]::jsonb[])");
    let query = query.bind(queue).bind(vec![body; count]);
    query.execute(connection).await.expect("a batch");
}

async fn delete(connection: &mut PgConnection, queue: &str, ids: Vec<i64>) {
    let query = sqlx::query("SELECT count(*) FROM pgmq.delete($1, $2::bigint[])");
    let deleted = query.bind(queue).bind(ids).execute(connection).await;
    deleted.expect("they are there");
}
