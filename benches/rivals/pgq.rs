//! PgQ, on the same server.

use std::time::{Duration, Instant};

use sqlx::Row;
use sqlx::postgres::PgConnection;

use crate::BATCH;
use crate::server::Server;
use crate::session::Session;
use crate::sides::{Rival, Rivals, per_second, rate};
use crate::support::SIZE;
use crate::table::Bar;

/// How many batches are read.
const BATCHES: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each event by the function that is there for it.
    Function,
    /// Rows into the table that is filled at the time.
    Table,
}

struct Pgq<'a> {
    session: Session<'a>,
    way: Way,
    insert: String,
    version: String,
    groups: usize,
}

pub(crate) fn start(server: &Server) -> Result<Rivals<'_>, String> {
    let mut both: Rivals<'_> = Vec::new();
    for way in [Way::Function, Way::Table] {
        both.push(Box::new(Pgq::new(server, way)?));
    }
    Ok(both)
}

impl<'a> Pgq<'a> {
    fn new(server: &'a Server, way: Way) -> Result<Self, String> {
        let mut session = Session::new(server);
        session.script("CREATE EXTENSION pgq")?;
        session.script("SELECT pgq.create_queue('produce'), pgq.create_queue('consume')")?;
        let version = session.text("SELECT extversion FROM pg_extension WHERE extname = 'pgq'");
        let insert = match way {
            Way::Function => {
                "SELECT count(pgq.insert_event('produce', 'm', body)) FROM unnest($1::text[]) body"
                    .to_owned()
            }
            Way::Table => {
                let table = session.text("SELECT pgq.current_event_table('produce')");
                format!(
                    "INSERT INTO {table} (ev_id, ev_time, ev_type, ev_data)
                     SELECT nextval(queue_event_seq), now(), 'm', unnest($1::text[])
                     FROM pgq.queue WHERE queue_name = 'produce'"
                )
            }
        };
        Ok(Self {
            session,
            way,
            insert,
            version,
            groups: 0,
        })
    }
}

impl Rival for Pgq<'_> {
    fn name(&self) -> &'static str {
        match self.way {
            Way::Function => "PgQ",
            Way::Table => "PgQ, its table",
        }
    }

    fn what(&self) -> String {
        format!("{}, the same server, fsync on", self.version)
    }

    fn bar(&self) -> Option<Bar> {
        (self.way == Way::Function).then_some(Bar::AtLeast(10.0))
    }

    fn produce(&mut self, window: Duration) -> f64 {
        let insert = &self.insert;
        rate(window, || {
            self.session
                .run(async |connection| send(connection, insert).await);
        })
    }

    fn consumes(&self) -> bool {
        self.way == Way::Function
    }

    fn consume(&mut self, part: usize) -> f64 {
        let batches = BATCHES / part;
        self.groups += 1;
        let number = self.groups;
        let insert = self.insert.replace("'produce'", "'consume'");
        self.session.run(async |connection| {
            if number == 1 {
                for _ in 0..batches {
                    send(connection, &insert).await;
                    let tick = sqlx::query("SELECT pgq.ticker('consume')");
                    tick.execute(&mut *connection).await.expect("a tick");
                }
            }
            let group = format!("g{number}");
            let first = "SELECT pgq.register_consumer_at('consume', $1, 1)";
            let registered = sqlx::query(first).bind(&group).execute(&mut *connection);
            registered.await.expect("a consumer");
            let began = Instant::now();
            let mut read = 0;
            while let Some(batch) = next(connection, &group).await {
                let events = "SELECT ev_id, ev_data FROM pgq.get_batch_events($1)";
                let events = sqlx::query(events).bind(batch).fetch_all(&mut *connection);
                let events = events.await.expect("events");
                read += events
                    .iter()
                    .filter(|row| row.get::<String, _>(1).len() == SIZE)
                    .count();
                let finish = sqlx::query("SELECT pgq.finish_batch($1)").bind(batch);
                finish.execute(&mut *connection).await.expect("it is done");
            }
            let rate = per_second(batches, began);
            assert_eq!(read, batches * BATCH);
            rate
        })
    }

    fn delivers(&self) -> bool {
        false
    }

    fn delivery(&mut self, _: usize) -> f64 {
        unreachable!("it delivers when its ticker ticks")
    }
}

async fn send(connection: &mut PgConnection, insert: &str) {
    let body = "x".repeat(SIZE);
    let query = sqlx::query(sqlx::AssertSqlSafe(insert)).bind(vec![body; BATCH]);
    query.execute(connection).await.expect("events");
}

async fn next(connection: &mut PgConnection, group: &str) -> Option<i64> {
    let query = sqlx::query_scalar("SELECT pgq.next_batch('consume', $1)");
    query
        .bind(group)
        .fetch_one(connection)
        .await
        .expect("a batch or none")
}
