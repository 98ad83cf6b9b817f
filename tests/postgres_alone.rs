//! The append without a function: it has one snapshot, which may be older than its lock. Here it is made
//! to wait for the lock, as a process may that is stopped between the two.

#![cfg(feature = "postgres")]

use std::sync::OnceLock;
use std::time::Duration;

use flowstream::storage::Id;
use flowstream::{Flowstream, Message};
use postgres_support::Cluster;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

mod postgres_support;

const SQL: &str = include_str!("../src/storage/postgres/sql/append_alone.sql");

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

/// A log of one message in a database of its own.
struct Place {
    database: String,
    id: Uuid,
}

impl Place {
    async fn new() -> Self {
        let database = cluster().database();
        let flow = flowstream::open(&cluster().url(&database)).await.unwrap();
        let mut orders = flow.producer("orders").await.unwrap();
        orders.append([Message::new("first")]).await.unwrap();
        flow.close().await.unwrap();
        Self {
            database,
            id: Uuid::from_u128(Id::random().0),
        }
    }

    async fn session(&self) -> PgConnection {
        let session = PgConnection::connect(&cluster().url(&self.database)).await;
        session.expect("a session")
    }

    /// In a transaction that stays open.
    async fn begun(&self, sql: &str) -> PgConnection {
        let mut session = self.session().await;
        let sql = format!("BEGIN; {sql}");
        let done = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut session);
        done.await.expect("it is done");
        session
    }

    /// The offset, if the append wrote anything.
    async fn append(
        &self,
        session: &mut PgConnection,
        sql: &str,
    ) -> Result<Option<i64>, sqlx::Error> {
        let sql = sql.replace("{schema}", "flowstream");
        let append = sqlx::query_as(AssertSqlSafe(sql))
            .bind(self.id)
            .bind("orders")
            .bind(0)
            .bind(1)
            .bind([1_u8, 0, 0, 0].as_slice())
            .bind(b"x".as_slice())
            .bind(None::<&[u8]>)
            .bind(None::<&[u8]>);
        let row: Option<(String, i32, i64, i64)> = append.fetch_optional(session).await?;
        Ok(row.map(|(_, _, offset, _)| offset))
    }

    /// What an append gives that waits for the lock of this one, which commits then.
    async fn behind(
        &self,
        mut other: PgConnection,
        settings: &str,
    ) -> Result<Option<i64>, sqlx::Error> {
        let waits = SQL.replace(" SKIP LOCKED", "");
        assert_ne!(waits, SQL);
        let mut session = self.session().await;
        let set = sqlx::raw_sql(AssertSqlSafe(settings.to_owned()));
        set.execute(&mut session).await.unwrap();
        let commit = async {
            let waiting = "SELECT count(*) FROM pg_stat_activity \
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while cluster().psql(&self.database, waiting).trim() == "0" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let commit = sqlx::raw_sql("COMMIT").execute(&mut other);
            commit.await.unwrap();
        };
        tokio::join!(self.append(&mut session, &waits), commit).0
    }

    fn refusal(&self) -> String {
        let id = self.id;
        format!("SELECT flowstream.settle('{id}', ARRAY['orders'], ARRAY[0])")
    }

    fn rows(&self) -> String {
        let rows = "SELECT string_agg(base_offset::text, ' ' ORDER BY base_offset) \
                    FROM flowstream.batches";
        cluster().psql(&self.database, rows).trim().to_owned()
    }
}

const ANOTHER: &str = "INSERT INTO flowstream.batches (stream_id, partition, base_offset, count, appended_at, batch_id, bodies)
     SELECT p.stream_id, 0, p.base_offset, 1, p.appended_at, gen_random_uuid(), ''
     FROM flowstream.next_place(gen_random_uuid(), NULL, 'orders', 0) p";

const REPEATABLE: &str = "SET default_transaction_isolation = 'repeatable read'";

fn is_collision(answer: Result<Option<i64>, sqlx::Error>) -> bool {
    let error = answer.expect_err("a collision");
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40001")
}

#[tokio::test]
async fn alone_it_takes_the_next_offset_once() {
    let place = Place::new().await;
    let mut session = place.session().await;
    let answer = place.append(&mut session, SQL).await;
    assert_eq!(answer.unwrap(), Some(1));
    let again = place.append(&mut session, SQL).await;
    assert_eq!(again.unwrap(), None, "the id is known");
    assert_eq!(place.rows(), "0 1");
}

#[tokio::test]
async fn it_waits_for_nobody() {
    let place = Place::new().await;
    let mut session = place.session().await;
    let other = place
        .begun("SELECT FROM flowstream.partitions FOR UPDATE")
        .await;
    let answer = place.append(&mut session, SQL).await;
    assert_eq!(answer.unwrap(), None);
    drop(other);
}

#[tokio::test]
async fn what_was_appended_since_its_snapshot_is_in_its_way() {
    let place = Place::new().await;
    let other = place.begun(ANOTHER).await;
    assert_eq!(place.behind(other, "").await.unwrap(), None);
    assert_eq!(place.rows(), "0 1");
    let other = place.begun(ANOTHER).await;
    assert!(is_collision(place.behind(other, REPEATABLE).await));
    assert_eq!(place.rows(), "0 1 2");
}

#[tokio::test]
async fn what_was_refused_since_its_snapshot_is_not_written() {
    for settings in ["", REPEATABLE] {
        let place = Place::new().await;
        let other = place.begun(&place.refusal()).await;
        let answer = place.behind(other, settings).await;
        match settings {
            "" => assert_eq!(answer.unwrap(), None),
            _ => assert!(is_collision(answer)),
        }
        let mut session = place.session().await;
        let later = place.append(&mut session, SQL).await;
        assert_eq!(later.unwrap(), None, "for ever");
        assert_eq!(place.rows(), "0");
    }
}

#[tokio::test]
async fn it_is_not_for_sessions_that_lose_what_they_commit() {
    let place = Place::new().await;
    let mut session = place.session().await;
    let off = sqlx::raw_sql("SET synchronous_commit = off").execute(&mut session);
    off.await.unwrap();
    let answer = place.append(&mut session, SQL).await;
    assert_eq!(answer.unwrap(), None);
}

/// The function is called for those in a pool of the application, whose sessions may be set to anything.
#[tokio::test]
async fn single_appends_of_a_process_go_this_way() {
    let place = Place::new().await;
    let url = cluster().url(&place.database);
    let tracked = format!(
        "ALTER DATABASE {} SET track_functions = 'all'",
        place.database
    );
    cluster().psql("postgres", &tracked);
    let ours = flowstream::open(&url).await.unwrap();
    let theirs = Flowstream::from_pool(sqlx::PgPool::connect(&url).await.unwrap()).await;
    for flow in [ours, theirs.unwrap()] {
        let mut orders = flow.producer("orders").await.unwrap();
        for _ in 0..10 {
            orders.append([Message::new("next")]).await.unwrap();
        }
        flow.close().await.unwrap();
    }
    assert_eq!(place.rows().split(' ').count(), 21);
    // A session says what it counted when it ends, or after a while.
    let calls = "SELECT sum(calls) FROM pg_stat_user_functions WHERE funcname = 'next_place'";
    while cluster().psql(&place.database, calls).trim() != "10" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
