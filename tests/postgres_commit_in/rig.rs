//! A database with a stream, a group, and a table that transactions write to.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use flowstream::postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgTransaction};
use flowstream::postgres::sqlx::{self, PgPool};
use flowstream::storage::{
    Claim, Group, Id, Name, Over, Partition, PostgresOptions, PostgresStorage, Storage,
};
use flowstream::{Consumer, Delivery, Error, Flowstream, GroupState, Message};

use crate::postgres_support::Cluster;

pub(crate) const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        Cluster::start_with(&[("max_connections", "300"), ("deadlock_timeout", "50ms")])
    })
}

pub(crate) struct Rig {
    pub(crate) database: String,
    pub(crate) pool: PgPool,
    pub(crate) flow: Flowstream,
    /// Another process.
    pub(crate) other: Arc<PostgresStorage>,
}

impl Rig {
    /// With so many messages, and transactions of this level.
    pub(crate) async fn new(level: &str, messages: usize) -> Self {
        let database = cluster().database();
        let url = cluster().url(&database);
        let pool = pool(&url, level);
        sqlx::query("CREATE TABLE effects (of bigint)")
            .execute(&pool)
            .await
            .unwrap();
        let flow = flowstream::open(&url).await.expect("it opens");
        let other = PostgresStorage::connect(&url, PostgresOptions::new()).await;
        let mut orders = flow.producer("orders").await.expect("a producer");
        let batch: Vec<Message> = (0..messages).map(|n| Message::new(n.to_string())).collect();
        orders.append(batch).await.expect("appended");
        Self {
            database,
            pool,
            flow,
            other: Arc::new(other.expect("it opens")),
        }
    }

    pub(crate) async fn consumer(&self) -> Consumer {
        let consumer = self.flow.consumer("orders", "billing");
        let consumer = consumer.redeliver_after(Duration::from_millis(50));
        consumer.await.expect("a consumer")
    }

    pub(crate) async fn begin(&self) -> PgTransaction<'static> {
        self.pool.begin().await.expect("a transaction")
    }

    /// The offsets that transactions had an effect for, in order.
    pub(crate) fn effects(&self) -> Vec<u64> {
        let effects = self.psql("SELECT of FROM effects ORDER BY of");
        effects
            .lines()
            .filter_map(|of| of.trim().parse().ok())
            .collect()
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        cluster().psql(&self.database, sql)
    }

    pub(crate) async fn state(&self) -> GroupState {
        let states = self.other.observe(&[group()]).await.expect("a look");
        states.into_iter().next().flatten().expect("a group")
    }

    /// Another process, whose sessions have this level.
    pub(crate) async fn open_at(&self, level: &str) -> Arc<PostgresStorage> {
        let pool = pool(&cluster().url(&self.database), level);
        let storage = PostgresStorage::from_pool(pool, PostgresOptions::new()).await;
        Arc::new(storage.expect("it opens"))
    }

    /// Returns once a statement waits for a lock.
    pub(crate) async fn until_one_waits(&self) {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'
            AND datname = current_database()";
        eventually(async || self.psql(waits).trim() == "1").await;
    }

    /// As another process does once the lease stood still.
    pub(crate) async fn take_over(&self) -> GroupState {
        loop {
            let state = self.state().await;
            let owner = Id::random();
            let claim = Claim {
                group: group(),
                owner,
                over: Some(Over::another(state.epoch, state.generation)),
            };
            let claimed = tokio::time::timeout(Duration::from_secs(600), self.other.claim(claim));
            let claimed = claimed.await.expect("nothing keeps it waiting");
            let state = claimed.expect("a claim");
            if state.owner == Some(owner) {
                return state;
            }
        }
    }

    /// Takes the fence away: what has to fail then shows that it is what holds.
    pub(crate) fn tear_down(&self) {
        self.psql("DROP TRIGGER fence ON flowstream.acks");
    }
}

pub(crate) fn group() -> Group {
    let stream = Name::new("orders").unwrap();
    Group {
        partition: Partition { stream, index: 0 },
        name: Name::new("billing").unwrap(),
    }
}

pub(crate) fn pool(url: &str, level: &str) -> PgPool {
    let server: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(40)
        .acquire_timeout(Duration::from_secs(600))
        .connect_lazy_with(server.options([("default_transaction_isolation", level)]))
}

pub(crate) async fn effect(tx: &mut PgTransaction<'_>, of: u64) -> Result<(), sqlx::Error> {
    let insert = sqlx::query("INSERT INTO effects VALUES ($1)").bind(of as i64);
    insert.execute(&mut **tx).await?;
    Ok(())
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    let next = tokio::time::timeout(Duration::from_secs(600), consumer.try_next());
    let delivery = next
        .await
        .expect("a delivery within ten minutes")
        .expect("no error");
    delivery.expect("it is not over")
}

pub(crate) async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within ten minutes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fenced, or a collision in the levels whose snapshot may be older.
pub(crate) fn is_refused(level: &str, error: &Error) -> bool {
    !error.in_doubt() && (error.is_fenced() || (level != LEVELS[0] && error.is_transient()))
}
