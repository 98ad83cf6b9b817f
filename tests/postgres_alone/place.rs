//! A log of one message in a database of its own, and sessions that are in each other's way.

use std::sync::OnceLock;
use std::time::Duration;

use flowstream::Message;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::postgres_support::Cluster;

pub(crate) const REPEATABLE: &str = "SET default_transaction_isolation = 'repeatable read'";

pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

pub(crate) struct Place {
    pub(crate) database: String,
}

impl Place {
    pub(crate) async fn new() -> Self {
        let database = cluster().database();
        let flow = flowstream::open(&cluster().url(&database)).await.unwrap();
        let mut orders = flow.producer("orders").await.unwrap();
        orders.append([Message::new("first")]).await.unwrap();
        flow.close().await.unwrap();
        Self { database }
    }

    pub(crate) fn url(&self) -> String {
        cluster().url(&self.database)
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        cluster().psql(&self.database, sql).trim().to_owned()
    }

    pub(crate) async fn session(&self) -> PgConnection {
        let session = PgConnection::connect(&self.url()).await;
        session.expect("a session")
    }

    pub(crate) async fn session_with(&self, settings: &str) -> PgConnection {
        let mut session = self.session().await;
        let set = sqlx::raw_sql(AssertSqlSafe(settings.to_owned()));
        set.execute(&mut session).await.expect("it is set");
        session
    }

    /// In a transaction that stays open.
    pub(crate) async fn begun(&self, sql: &str) -> PgConnection {
        self.session_with(&format!("BEGIN; {sql}")).await
    }

    /// What this gives, which waits for a lock of the other, which commits then.
    pub(crate) async fn behind<T>(
        &self,
        mut other: PgConnection,
        write: impl Future<Output = T>,
    ) -> T {
        let commit = async {
            let waiting = "SELECT count(*) FROM pg_stat_activity \
                           WHERE datname = current_database() AND wait_event_type = 'Lock'";
            while self.psql(waiting) == "0" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let commit = sqlx::raw_sql("COMMIT").execute(&mut other);
            commit.await.expect("a commit");
        };
        tokio::join!(write, commit).0
    }

    /// Says in the statistics how often functions are called.
    pub(crate) fn count_calls(&self) {
        let database = &self.database;
        let tracked = format!("ALTER DATABASE {database} SET track_functions = 'all'");
        cluster().psql("postgres", &tracked);
    }

    /// Waits until a function was called so often. A session says what it counted when it ends, or after
    /// a while.
    pub(crate) async fn until_called(&self, function: &str, times: u32) {
        let calls =
            format!("SELECT sum(calls) FROM pg_stat_user_functions WHERE funcname = '{function}'");
        while self.psql(&calls) != times.to_string() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The statement, with its lock waited for.
pub(crate) fn waiting(sql: &str) -> String {
    let waits = sql.replace(" SKIP LOCKED", "");
    assert_ne!(waits, sql);
    waits
}

pub(crate) fn is_collision<T: std::fmt::Debug>(answer: Result<T, sqlx::Error>) -> bool {
    let error = answer.expect_err("a collision");
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("40001")
}

/// Nothing was written: where the level of isolation is stricter, the collision says so.
pub(crate) fn assert_kept_out<T: std::fmt::Debug + PartialEq>(
    answer: Result<Option<T>, sqlx::Error>,
    settings: &str,
) {
    match settings {
        "" => assert_eq!(answer.unwrap(), None),
        _ => assert!(is_collision(answer)),
    }
}
