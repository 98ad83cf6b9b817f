//! The same against PostgreSQL, with what is only there: transactions of the application.
//!
//! Polls depend on sockets, so a future is dropped after each number of wakes that it gets: at once, and
//! once more when what it waits for has come and it was not polled. After each time the pool has to be whole, and no session may be left within a transaction.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flowstream::postgres::sqlx::postgres::PgPoolOptions;
use flowstream::postgres::sqlx::{self, PgPool};
use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Flowstream, ManualClock, Message};
use futures::future::join_all;

use super::postgres_support::Cluster;
use super::support::*;
use super::{all, cancel};

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    // Nobody pulls the plug here.
    CLUSTER.get_or_init(|| Cluster::start_with(&[("fsync", "off"), ("jit", "off")]))
}

/// Sessions of the storage, and of the application.
const OURS: &str = "flowstream";
const THEIRS: &str = "application";

/// Empties everything, which waits for whoever has not let go.
const EMPTY: &str = "
    SET lock_timeout = '20s';
    TRUNCATE flowstream.acks, flowstream.outbox, flowstream.streams, flowstream.partitions,
        flowstream.batches, flowstream.trim_state, flowstream.ids, flowstream.leases,
        flowstream.positions, flowstream.members, effects RESTART IDENTITY";

thread_local! {
    /// Past everything: one connection.
    static ADMIN: RefCell<Option<PgPool>> = const { RefCell::new(None) };
}

fn admin() -> PgPool {
    ADMIN.with_borrow(|admin| admin.clone().expect("a pool"))
}

/// An empty storage with few connections.
pub(crate) async fn world(url: &str) -> World {
    sqlx::raw_sql(EMPTY).execute(&admin()).await.unwrap();
    let options = PostgresOptions::new().max_connections(2);
    let storage = PostgresStorage::connect(url, options).await.unwrap();
    let clock = ManualClock::new();
    let faulty = Faulty::new(Arc::new(storage));
    let flow = open(&faulty, &clock, |options| options.retry_for(Duration::ZERO));
    World {
        clock,
        faulty,
        flow,
        dir: None,
    }
}

async fn sessions(filter: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE datname = current_database() AND application_name IN ($1, $2) AND ";
    let sql = sqlx::AssertSqlSafe(format!("{sql}{filter}"));
    let counted = sqlx::query_scalar(sql).bind(OURS).bind(THEIRS);
    counted.fetch_one(&admin()).await.unwrap()
}

async fn until_none(what: &str, filter: &str) {
    soon(what, async {
        while sessions(filter).await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// The pool is whole, no session is within a transaction, and all end with the storage.
pub(crate) async fn leaves_nothing(url: &str, world: World) {
    world.rest().await;
    // More calls at once than there are connections. One that was closed says so.
    let calls = (0..6).map(|_| world.flow.create_stream("last", 1));
    for done in soon("all connections", join_all(calls)).await {
        let is_closed = |error: &flowstream::Error| error.kind() == flowstream::ErrorKind::Closed;
        assert!(done.as_ref().err().is_none_or(is_closed), "{url}: {done:?}");
    }
    until_none("an end of all transactions", "state LIKE 'idle in%'").await;
    soon("the end", world.flow.close()).await.unwrap();
    drop(world);
    until_none("an end of all sessions", "true").await;
}

/// A database, and the URL of it.
async fn database() -> String {
    let database = cluster().database();
    let url = cluster().url(&database);
    let flow = flowstream::open(&url).await.unwrap();
    flow.close().await.unwrap();
    let pool = PgPoolOptions::new().max_connections(1);
    let pool = pool.connect(&url).await.unwrap();
    let effects = "CREATE TABLE effects (of bigint)";
    sqlx::query(effects).execute(&pool).await.unwrap();
    ADMIN.set(Some(pool));
    format!("{url}?application_name={OURS}")
}

/// A pool of the application.
fn pool(url: &str) -> PgPool {
    let url = url.replace(OURS, THEIRS);
    let pool = PgPoolOptions::new().max_connections(2);
    pool.connect_lazy(&url).unwrap()
}

/// All its connections are good.
async fn is_whole(pool: PgPool) {
    let transactions = [pool.begin(), pool.begin()];
    for transaction in soon("the application's pool", join_all(transactions)).await {
        let mut transaction = transaction.unwrap();
        let one = sqlx::query("SELECT 1").execute(&mut *transaction);
        one.await.unwrap();
        transaction.rollback().await.unwrap();
    }
    soon("an end of the pool", pool.close()).await;
}

async fn effects() -> u64 {
    let counted = sqlx::query_scalar("SELECT count(*) FROM effects");
    let count: i64 = counted.fetch_one(&admin()).await.unwrap();
    count as u64
}

/// How much is in the log, once that is so.
async fn comes(world: &World, stream: &str, count: u64) {
    soon("what was appended", async {
        while world.bodies(stream).await.len() as u64 != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Only a storage that shows what it is takes part in transactions.
fn past_faults(world: &World) -> Flowstream {
    let options = flowstream::Options::new().clock(world.clock.clone());
    options.open_storage(world.faulty.inner().clone())
}

async fn transactions(url: &str) -> usize {
    let mut points = 0;
    points += cancel(url, "append_in", async |world, polls| {
        let (pool, flow) = (pool(url), past_faults(world));
        let mut producer = flow.producer("out").await.unwrap();
        let mut tx = pool.begin().await.unwrap();
        let ready = drop_after(polls, producer.append_in(&mut tx, Message::new("a"))).await;
        match &ready {
            Some(appended) => {
                appended.as_ref().unwrap();
                postgres::commit(tx).await.unwrap();
            }
            None => tx.rollback().await.unwrap(),
        }
        comes(world, "out", u64::from(ready.is_some())).await;
        is_whole(pool).await;
        ready.is_some()
    })
    .await;
    points += cancel(url, "commit_in", async |world, polls| {
        let (pool, flow) = (pool(url), past_faults(world));
        world.fill("orders", 2).await;
        let mut consumer = flow.consumer("orders", "billing").await.unwrap();
        let delivery = next(&mut consumer).await;
        let mut tx = pool.begin().await.unwrap();
        let ready = drop_after(polls, delivery.commit_in(&mut tx)).await;
        match &ready {
            Some(committed) => {
                committed.as_ref().unwrap();
                postgres::commit(tx).await.unwrap();
            }
            None => tx.rollback().await.unwrap(),
        }
        drop(delivery);
        soon("the shutdown", consumer.control().shutdown()).await;
        // Done, or it comes again.
        let done = u64::from(ready.is_some());
        let mut other = flow.consumer("orders", "billing").await.unwrap();
        assert_eq!(next(&mut other).await.offset(), done);
        is_whole(pool).await;
        ready.is_some()
    })
    .await;
    points += cancel(url, "commit of a transaction", async |world, polls| {
        let (pool, flow) = (pool(url), past_faults(world));
        world.fill("orders", 2).await;
        let mut producer = flow.producer("out").await.unwrap();
        let mut consumer = flow.consumer("orders", "billing").await.unwrap();
        let delivery = next(&mut consumer).await;
        let mut tx = pool.begin().await.unwrap();
        let effect = sqlx::query("INSERT INTO effects VALUES (0)");
        effect.execute(&mut *tx).await.unwrap();
        producer
            .append_in(&mut tx, Message::new("a"))
            .await
            .unwrap();
        delivery.commit_in(&mut tx).await.unwrap();
        let ready = drop_after(polls, postgres::commit(tx)).await;
        if let Some(committed) = &ready {
            committed.as_ref().unwrap();
        }
        // One way or the other it is over once the connection is back.
        is_whole(pool).await;
        let effects = effects().await;
        assert!(effects == 1 || ready.is_none(), "{effects}");
        comes(world, "out", effects).await;
        drop(delivery);
        soon("the shutdown", consumer.control().shutdown()).await;
        let mut other = flow.consumer("orders", "billing").await.unwrap();
        assert_eq!(next(&mut other).await.offset(), effects);
        ready.is_some()
    })
    .await;
    points += cancel(url, "from_pool", async |_, polls| {
        let pool = pool(url);
        let ready = drop_after(polls, Flowstream::from_pool(pool.clone())).await;
        let is_ready = ready.is_some();
        drop(ready);
        is_whole(pool).await;
        is_ready
    })
    .await;
    points
}

#[tokio::test]
async fn nothing_is_lost_at_any_await_point_of_postgres() {
    poll_unwoken(0);
    let url = database().await;
    let mut points = 0;
    for is_woken in [false, true] {
        drop_woken(is_woken);
        points += all(&url).await + transactions(&url).await;
    }
    println!("postgres cancel points: {points}");
    let report = crate::report::Report::of("cancellation");
    report
        .count("cancel points", points)
        .count("lost", 0)
        .write();
}
