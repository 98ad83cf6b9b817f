//! A transaction needs one connection of the application's pool: its own.

use std::time::Duration;

use flowstream::postgres::sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use flowstream::postgres::sqlx::{self, PgPool};
use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::storage::{PostgresOptions, PostgresStorage, Storage};
use flowstream::{Flowstream, Message, Options};
use futures::future;
use std::sync::Arc;

use crate::rig::{LEVELS, Rig, cluster, effect, eventually, group, next};

/// A pool of so many, and a process that uses it.
async fn open(rig: &Rig, connections: u32, options: PostgresOptions) -> (PgPool, Flowstream) {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(20))
        .connect_lazy(&cluster().url(&rig.database))
        .expect("a URL");
    let storage = PostgresStorage::from_pool(pool.clone(), options).await;
    let storage = Arc::new(storage.expect("it opens"));
    (pool, Options::new().open_storage(storage))
}

async fn end(rig: &Rig, stream: &str) -> u64 {
    let mut partition = group().partition;
    partition.stream = flowstream::storage::Name::new(stream).unwrap();
    let bounds = rig.other.bounds(&[partition]).await;
    bounds.map_or(0, |bounds| bounds[0].end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_of_one_is_enough() {
    for listens in [true, false] {
        let rig = Rig::new(LEVELS[0], 1).await;
        let (pool, flow) = open(&rig, 1, PostgresOptions::new().listen(listens)).await;
        let mut events = flow.producer("events").await.expect("a producer");
        let mut consumer = flow.consumer("orders", "billing").await.expect("one");
        let delivery = next(&mut consumer).await;
        let mut tx = pool.begin().await.expect("a transaction");
        effect(&mut tx, 0).await.unwrap();
        let known = events.append_in(&mut tx, Message::new("known"));
        known.await.expect("appended");
        let new = Message::new("new").with_stream("new").unwrap();
        let new = events.append_in(&mut tx, new);
        new.await.expect("appended to a stream that nobody knows");
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        postgres::commit(tx).await.expect("committed");
        // What follows goes on while the application has its connection.
        let held = pool.begin().await.expect("a transaction");
        eventually(async || end(&rig, "events").await == 1 && end(&rig, "new").await == 1).await;
        drop(delivery);
        let control = consumer.control();
        tokio::spawn(async move { control.shutdown().await });
        eventually(async || rig.state().await.owner.is_none()).await;
        assert_eq!(rig.state().await.position(), 1);
        drop(held);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_may_be_as_many_transactions_as_connections() {
    const COUNT: usize = 4;
    for is_first_to_append in [true, false] {
        let rig = Rig::new(LEVELS[0], COUNT).await;
        let options = PostgresOptions::new().listen(is_first_to_append);
        let (pool, flow) = open(&rig, COUNT as u32, options).await;
        let events = flow.producer("events").await.expect("a producer");
        let mut consumer = flow.consumer("orders", "billing").await.expect("one");
        let mut transactions = Vec::new();
        for _ in 0..COUNT {
            let delivery = next(&mut consumer).await;
            transactions.push((delivery, pool.begin().await.expect("a transaction")));
        }
        let calls = transactions.into_iter().map(|(delivery, mut tx)| {
            let mut events = events.clone();
            async move {
                if is_first_to_append {
                    let event = events.append_in(&mut tx, Message::new("done"));
                    event.await.expect("appended");
                }
                delivery.commit_in(&mut tx).await.expect("it has the lease");
                (delivery, tx)
            }
        });
        // All have called before one commits.
        for (delivery, tx) in future::join_all(calls).await {
            postgres::commit(tx).await.expect("committed");
            drop(delivery);
        }
        eventually(async || rig.state().await.position() == COUNT as u64).await;
        let events = if is_first_to_append { COUNT } else { 0 };
        eventually(async || end(&rig, "events").await == events as u64).await;
    }
}

/// While handlers have all connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_without_the_pool() {
    let rig = Rig::new(LEVELS[0], 1).await;
    let (pool, flow) = open(&rig, 1, PostgresOptions::new()).await;
    let consumer = flow.consumer("orders", "billing");
    let mut consumer = consumer.lease(Duration::from_secs(6)).await.expect("one");
    let delivery = next(&mut consumer).await;
    let mut tx = pool.begin().await.expect("a transaction");
    let began = rig.state().await;
    eventually(async || rig.state().await.generation > began.generation + 1).await;
    delivery.commit_in(&mut tx).await.expect("it has the lease");
    postgres::commit(tx).await.expect("committed");
    assert_eq!(rig.state().await.epoch, began.epoch);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_the_pool_a_process_has_two_connections() {
    for (listens, most) in [(true, 2), (false, 1)] {
        let rig = Rig::new(LEVELS[0], 1).await;
        rig.other.close().await.expect("it closes");
        rig.flow.close().await.expect("it closes");
        rig.pool.close().await;
        let database = &rig.database;
        cluster().wait_for_sessions(database);
        let (pool, flow) = open(&rig, 3, PostgresOptions::new().listen(listens)).await;
        let work = (0..8).map(|n| {
            let (pool, flow) = (pool.clone(), flow.clone());
            async move {
                let mut events = flow.producer(format!("events {n}")).await.expect("one");
                let mut consumer = flow.consumer("orders", format!("group {n}")).await.unwrap();
                let delivery = next(&mut consumer).await;
                let mut tx = pool.begin().await.expect("a transaction");
                let event = events.append_in(&mut tx, Message::new("done"));
                event.await.expect("appended");
                delivery.commit_in(&mut tx).await.expect("it has the lease");
                postgres::commit(tx).await.expect("committed");
                consumer.control().shutdown().await;
            }
        });
        future::join_all(work).await;
        let ours = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' \
             AND application_name = 'flowstream'"
        );
        let ours: usize = cluster().psql("postgres", &ours).trim().parse().unwrap();
        assert!(ours <= most, "{ours} connections");
    }
}

/// A password that changes, and a hook that says something in each session: ours are as the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beside_the_pool_are_made_as_the_pool_makes_its_own() {
    let rig = Rig::new(LEVELS[0], 0).await;
    rig.other.close().await.expect("it closes");
    rig.flow.close().await.expect("it closes");
    rig.pool.close().await;
    let database = &rig.database;
    cluster().wait_for_sessions(database);
    let role = format!("role_{database}");
    cluster().role_with_password(&role, "one", "scram-sha-256");
    let server: PgConnectOptions = cluster().url_as(&role, database).parse().unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .after_connect(|session, _| {
            Box::pin(async move {
                let hook = sqlx::raw_sql("SET application_name = 'hooked'");
                hook.execute(session).await.map(drop)
            })
        })
        .connect_lazy_with(server.clone().password("one"));
    let flow = Flowstream::from_pool(pool.clone()).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow.consumer("orders", "billing").await.expect("one");
    for password in ["one", "two"] {
        let changed = format!("ALTER ROLE {role} PASSWORD '{password}'");
        cluster().psql("postgres", &changed);
        pool.set_connect_options(server.clone().password(password));
        let sessions = format!("FROM pg_stat_activity WHERE datname = '{database}'");
        // Returns once they have ended.
        let ended = format!("SELECT count(pg_terminate_backend(pid, 60000)) {sessions}");
        assert_ne!(cluster().psql("postgres", &ended).trim(), "0");
        orders.append(Message::new("a")).await.expect("appended");
        let delivery = next(&mut consumer).await;
        delivery.commit().await.expect("committed");
        let listens = format!(
            "SELECT count(*) {sessions} AND application_name = 'hooked' AND query LIKE 'LISTEN%'"
        );
        eventually(async || cluster().psql("postgres", &listens).trim() == "1").await;
        let others = format!("SELECT count(*) {sessions} AND application_name <> 'hooked'");
        assert_eq!(cluster().psql("postgres", &others).trim(), "0");
    }
}
