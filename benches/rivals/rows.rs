//! A row a message, as the Go library writes and reads it.

use std::time::{Duration, Instant};

use flowstream::storage::Id;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Row};

use crate::BATCH;
use crate::server::Server;
use crate::session::Session;
use crate::sides::{Rival, per_second, rate};
use crate::support::SIZE;
use crate::table::Bar;

/// How many batches are read.
const BATCHES: usize = 50;

/// How many rows a page has.
const PAGE: i64 = 50;

/// How long a reader at the end waits before it asks again.
const PERIOD: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A statement each, in one transaction: as the library does.
    OneByOne,
    /// The same rows, in one statement.
    Together,
}

pub(crate) struct Rows<'a> {
    session: Session<'a>,
    way: Way,
    groups: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(server: &'a Server, way: Way) -> Self {
        let mut session = Session::new(server);
        session.script(include_str!("rows.sql")).expect("tables");
        Self {
            session,
            way,
            groups: 0,
        }
    }
}

impl Rival for Rows<'_> {
    fn name(&self) -> &'static str {
        match self.way {
            Way::OneByOne => "rows, one by one (Go)",
            Way::Together => "rows, one INSERT",
        }
    }

    fn what(&self) -> String {
        let way = match self.way {
            Way::OneByOne => "the access pattern of the Go library",
            Way::Together => "the same rows, which the Go library does not write so",
        };
        format!("{way}; the same server, fsync on")
    }

    fn bar(&self) -> Option<Bar> {
        (self.way == Way::OneByOne).then_some(Bar::AtLeast(150.0))
    }

    fn produce(&mut self, window: Duration) -> f64 {
        let way = self.way;
        rate(window, || {
            self.session.run(async |connection| match way {
                Way::OneByOne => insert_one_by_one(connection, "produce", BATCH).await,
                Way::Together => insert_together(connection, "produce").await,
            });
        })
    }

    fn consumes(&self) -> bool {
        self.way == Way::OneByOne
    }

    fn consume(&mut self, part: usize) -> f64 {
        let batches = BATCHES / part;
        self.groups += 1;
        let number = self.groups;
        self.session.run(async |connection| {
            if number == 1 {
                for _ in 0..batches {
                    insert_together(connection, "consume").await;
                }
                // As the server does by itself after a while.
                let analyze = sqlx::raw_sql("VACUUM ANALYZE states, newest");
                analyze.execute(&mut *connection).await.expect("statistics");
            }
            let mut group = State::create(connection, &format!("consumer.{number}")).await;
            let (mut last, mut read, mut noted) = (0, 0, 0);
            let began = Instant::now();
            while read < batches * BATCH {
                let page = page(connection, "consume", last).await;
                read += page.len();
                last = page.last().map_or(last, |(revision, _)| *revision);
                if read - noted >= BATCH {
                    noted = read;
                    group.update(connection, last).await;
                    group.read(connection).await;
                }
            }
            per_second(batches, began)
        })
    }

    fn delivers(&self) -> bool {
        self.way == Way::OneByOne
    }

    fn delivery(&mut self, count: usize) -> f64 {
        let end = "SELECT coalesce(max(revision), 0) FROM states";
        let end = self.session.text(end).parse().expect("a revision");
        self.session.delivery(
            count,
            |mut connection, seen| async move {
                let (mut last, mut left) = (end, count);
                loop {
                    for (revision, _) in page(&mut connection, "delivery", last).await {
                        last = revision;
                        left -= 1;
                        seen.send(Instant::now()).expect("somebody who waits");
                    }
                    if left == 0 {
                        return;
                    }
                    tokio::time::sleep(PERIOD).await;
                }
            },
            async |connection| insert_one_by_one(connection, "delivery", 1).await,
        )
    }
}

fn labels(stream: &str) -> String {
    format!("{{\"stream\": \"{stream}\"}}")
}

/// An id, and all that a message is.
fn state(stream: &str) -> (String, String) {
    let id = Id::random().to_string();
    let body = "x".repeat(SIZE);
    let state = format!(
        "{{\"id\": \"{id}\", \"labels\": {}, \"annotations\": {{\"body\": \"{body}\"}}, \
         \"committedAt\": 1700000000000}}",
        labels(stream)
    );
    (id, state)
}

async fn insert_one_by_one(connection: &mut PgConnection, stream: &str, count: usize) {
    let labels = labels(stream);
    let mut tx = connection.begin().await.expect("a transaction");
    for _ in 0..count {
        let (id, state) = state(stream);
        let query = sqlx::query(
            "WITH head AS (
                 INSERT INTO newest VALUES ($1, nextval('revisions')) RETURNING revision
             )
             INSERT INTO states SELECT revision, $1, $2::jsonb, $3::jsonb FROM head
             RETURNING revision",
        );
        let query = query.bind(id).bind(state).bind(&labels);
        query.fetch_one(&mut *tx).await.expect("a row");
    }
    tx.commit().await.expect("a commit");
}

async fn insert_together(connection: &mut PgConnection, stream: &str) {
    let (ids, states): (Vec<String>, Vec<String>) = (0..BATCH).map(|_| state(stream)).unzip();
    let query = sqlx::query(
        "WITH given AS MATERIALIZED (
             SELECT nextval('revisions') AS revision, id, state
             FROM unnest($1::text[], $2::text[]) m (id, state)
         ), heads AS (INSERT INTO newest SELECT id, revision FROM given)
         INSERT INTO states SELECT revision, id, state::jsonb, $3::jsonb FROM given",
    );
    let query = query.bind(ids).bind(states).bind(labels(stream));
    query.execute(connection).await.expect("rows");
}

/// What comes after a revision, as far as no transaction that is under way may still add to it.
async fn page(connection: &mut PgConnection, stream: &str, after: i64) -> Vec<(i64, String)> {
    let query = sqlx::query(
        "SELECT revision, state::text FROM (
             SELECT s.xmin::text::bigint AS writer, s.revision, s.state FROM states s
             WHERE s.labels @> $1::jsonb AND s.revision > $2 ORDER BY s.revision LIMIT $3
         ) found, (
             SELECT pg_snapshot_xmin(s)::text::bigint AS low, pg_snapshot_xmax(s)::text::bigint AS high
             FROM pg_current_snapshot() s
         ) now
         WHERE writer < low OR writer > high",
    );
    let query = query.bind(labels(stream)).bind(after).bind(PAGE);
    let rows = query.fetch_all(connection).await.expect("rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// What a group knows: a row as a message is one.
struct State {
    id: String,
    revision: i64,
}

impl State {
    async fn create(connection: &mut PgConnection, id: &str) -> Self {
        let query = sqlx::query_scalar(
            "WITH head AS (
                 INSERT INTO newest VALUES ($1, nextval('revisions')) RETURNING revision
             )
             INSERT INTO states SELECT revision, $1, $2::jsonb, $3::jsonb FROM head
             RETURNING revision",
        );
        let query = query.bind(id).bind("{}").bind(labels(id));
        Self {
            id: id.to_owned(),
            revision: query.fetch_one(connection).await.expect("a group"),
        }
    }

    async fn update(&mut self, connection: &mut PgConnection, since: i64) {
        let mut tx = connection.begin().await.expect("a transaction");
        let query = sqlx::query_scalar(
            "WITH head AS (
                 UPDATE newest SET revision = nextval('revisions')
                 WHERE id = $1 AND revision = $2 RETURNING revision
             )
             INSERT INTO states SELECT revision, $1, $3::jsonb, $4::jsonb FROM head
             RETURNING revision",
        );
        let state = format!("{{\"annotations\": {{\"since\": \"{since}\"}}}}");
        let query = query.bind(&self.id).bind(self.revision).bind(state);
        let query = query.bind(labels(&self.id));
        self.revision = query.fetch_one(&mut *tx).await.expect("nobody else");
        tx.commit().await.expect("a commit");
    }

    async fn read(&self, connection: &mut PgConnection) {
        let query = sqlx::query(
            "SELECT s.state::text, s.revision FROM newest n JOIN states s USING (id, revision)
             WHERE s.labels @> $1::jsonb AND s.revision >= $2",
        );
        let query = query.bind(labels(&self.id)).bind(self.revision);
        query.fetch_one(connection).await.expect("the group");
    }
}
