//! Databases, each with a network of its own that breaks where it is told to.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flowstream::postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use flowstream::postgres::sqlx::{self, PgPool};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Flowstream, Options};

use crate::postgres_support::Cluster;
use crate::postgres_support::proxy::Proxy;

/// Not more than the script needs, so that what is dead is found soon.
const STATEMENT: Duration = Duration::from_millis(500);
/// How sessions through the proxy are known at the server.
const APPLICATION: &str = "cut";

pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let settings = [
            ("max_connections", "400"),
            ("max_locks_per_transaction", "128"),
            ("shared_buffers", "64MB"),
            ("jit", "off"),
            // Nobody pulls the plug here.
            ("fsync", "off"),
        ];
        let cluster = Cluster::start_with(&settings);
        cluster.role_with_password("cut", "secret", "password");
        cluster
    })
}

/// A database with the schema made, and the way to it.
pub(crate) struct Bench {
    pub(crate) database: String,
    pub(crate) proxy: Proxy,
    /// Past the proxy.
    admin: PgPool,
    /// Another process, whose network works.
    pub(crate) direct: Flowstream,
    runs: AtomicI32,
}

/// Copies of one that has everything in it.
pub(crate) async fn benches(count: usize) -> Vec<Bench> {
    let first = cluster().database();
    let flow = open_directly(&first).await;
    flow.close().await.expect("it closes");
    let effects = "CREATE TABLE effects (run int, of bigint)";
    cluster().psql(&first, effects);
    cluster().wait_for_sessions(&first);
    let mut benches = Vec::new();
    for number in 0..count {
        let database = format!("{first}_{number}");
        let copy = format!("CREATE DATABASE {database} TEMPLATE {first}");
        cluster().psql("postgres", &copy);
        let admin = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy(&cluster().url(&database))
            .expect("a URL");
        benches.push(Bench {
            proxy: Proxy::start(cluster().port()).await,
            direct: open_directly(&database).await,
            database,
            admin,
            runs: AtomicI32::new(0),
        });
    }
    benches
}

/// One more process, whose network works.
pub(crate) async fn open_directly(database: &str) -> Flowstream {
    let url = cluster().url(database);
    flowstream::open(&url).await.expect("it opens")
}

impl Bench {
    /// Each has streams of its own.
    pub(crate) fn next_run(&self) -> i32 {
        self.runs.fetch_add(1, Ordering::Relaxed)
    }

    fn url(&self) -> String {
        let url = self.proxy.url_as("cut:secret", &self.database);
        format!("{url}?application_name={APPLICATION}")
    }

    /// Through the proxy.
    pub(crate) async fn connect(&self) -> flowstream::Result<PostgresStorage> {
        let options = PostgresOptions::new().statement_timeout(STATEMENT);
        PostgresStorage::connect(&self.url(), options).await
    }

    /// A pool of the application, through the proxy.
    pub(crate) fn pool(&self) -> PgPool {
        let server: PgConnectOptions = self.url().parse().expect("a URL");
        PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(2))
            .connect_lazy_with(server)
    }

    /// How many sessions came through the proxy, and how many of those are in a transaction and do
    /// nothing.
    pub(crate) async fn sessions(&self) -> (i64, i64) {
        let sql = "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in%') \
                   FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1";
        let counts = sqlx::query_as(sql).bind(APPLICATION);
        counts.fetch_one(&self.admin).await.expect("counts")
    }

    /// The offsets of which transactions have left their effect, in a run.
    pub(crate) async fn effects(&self, run: i32) -> Vec<i64> {
        let sql = "SELECT of FROM effects WHERE run = $1 ORDER BY of";
        let effects = sqlx::query_scalar(sql).bind(run);
        effects.fetch_all(&self.admin).await.expect("effects")
    }
}

/// What is made of one connection to the storage.
pub(crate) struct Client {
    pub(crate) storage: Arc<PostgresStorage>,
    pub(crate) flow: Flowstream,
    pub(crate) pool: PgPool,
}

impl Client {
    pub(crate) fn new(storage: PostgresStorage, retry_for: Duration, bench: &Bench) -> Self {
        let storage = Arc::new(storage);
        let options = Options::new().retry_for(retry_for);
        Self {
            flow: options.open_storage(storage.clone()),
            storage,
            pool: bench.pool(),
        }
    }
}
