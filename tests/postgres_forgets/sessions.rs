//! A session that is of no use is never lent again.

use std::time::Duration;

use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{ErrorKind, Flowstream, Message, Options, Producer};
use futures::SinkExt;
use sqlx::{Connection, PgConnection, PgPool};

use crate::postgres_support::Cluster;
use crate::postgres_support::proxy::Proxy;
use crate::{PATIENCE, cluster, eventually, in_time, next, on_pool, open, pool};

/// All connections of a pool, at once: so they are there.
async fn fill(pool: &PgPool, connections: u32) {
    let mut all = Vec::new();
    for _ in 0..connections {
        all.push(pool.acquire().await.expect("a connection"));
    }
    drop(all);
    let count = connections as usize;
    eventually("all are back", async || pool.num_idle() == count).await;
}

async fn send(producer: &mut Producer) -> flowstream::Result<()> {
    let sent = producer.send(Message::new("a")).await;
    producer.take_unsent().await;
    sent
}

/// It is refused once; then it goes by a new connection.
async fn is_refused_once(flow: &Flowstream, switch: impl FnOnce()) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    // There are some more sessions of that kind.
    let calls = (0..6).map(|_| flow.bounds("orders"));
    for call in futures::future::join_all(calls).await {
        call.expect("it can be read");
    }
    let refused = send(&mut producer).await.expect_err("it is read-only");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert!(!refused.in_doubt(), "{refused}");
    switch();
    for _ in 0..6 {
        send(&mut producer).await.expect("a new session takes it");
    }
}

/// Each database has a role whose new sessions are read-only, until it is told otherwise.
fn read_only_role(database: &str) -> String {
    let role = format!("reads_{database}");
    let made = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET default_transaction_read_only = on"
    );
    cluster().psql(database, &made);
    role
}

async fn prepared() -> (String, String) {
    let database = cluster().database();
    let flow = open(&cluster().url(&database)).await;
    flow.create_stream("orders", 1).await.expect("a stream");
    flow.close().await.expect("it closes");
    let role = read_only_role(&database);
    (database, role)
}

fn writes_again(database: &str, role: &str) {
    let reset = format!("ALTER ROLE {role} RESET default_transaction_read_only");
    cluster().psql(database, &reset);
}

/// Sessions that began while it was read-only stayed so, and were used again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_takes_no_writes_goes() {
    let (database, role) = prepared().await;
    let flow = open(&cluster().url_as(&role, &database)).await;
    is_refused_once(&flow, || writes_again(&database, &role)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_of_the_applications_pool_that_takes_no_writes_goes() {
    for listens in [true, false] {
        let (database, role) = prepared().await;
        let pool = pool(&cluster().url_as(&role, &database), 4);
        fill(&pool, 4).await;
        let flow = on_pool(&pool, PostgresOptions::new().listen(listens)).await;
        is_refused_once(&flow, || writes_again(&database, &role)).await;
    }
}

/// Where the schema could not be made, the session went back to the pool, and was the next one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_that_could_not_be_opened_leaves_no_session_behind() {
    let database = cluster().database();
    let role = read_only_role(&database);
    let pool = pool(&cluster().url_as(&role, &database), 4);
    fill(&pool, 4).await;
    let refused = PostgresStorage::from_pool(pool.clone(), PostgresOptions::new()).await;
    let refused = refused.expect_err("it is read-only");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    writes_again(&database, &role);
    on_pool(&pool, PostgresOptions::new()).await;
}

/// A balancer led to a standby, and leads to the primary now: nothing closed the connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_a_standby_are_left() {
    let primary = Cluster::start_new();
    let flow = open(&primary.url("postgres")).await;
    flow.create_stream("orders", 1).await.expect("a stream");
    let standby = primary.standby();
    standby.catch_up(&primary);
    let balancer = Proxy::start(standby.port()).await;
    let url = balancer.url("postgres");
    let flow = open(&url).await;
    is_refused_once(&flow, || balancer.lead_new_to(primary.port())).await;
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    let delivery = next(&mut consumer).await;
    delivery.commit().await.expect("committed");

    balancer.lead_new_to(standby.port());
    let pool = pool(&url, 4);
    fill(&pool, 4).await;
    let flow = on_pool(&pool, PostgresOptions::new()).await;
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut tx = pool.begin().await.expect("a transaction");
    let refused = orders.append_in(&mut tx, Message::new("a")).await;
    let refused = refused.expect_err("it is read-only");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    drop(tx);
    is_refused_once(&flow, || balancer.lead_new_to(primary.port())).await;
}

/// The primary before was made read-only, and lives on with all its connections: those stayed there, the
/// one that listens too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_that_cuts_no_connection_is_followed() {
    let before = Cluster::start_new();
    let balancer = Proxy::start(before.port()).await;
    let patient = Options::new().retry_for(PATIENCE);
    let flow = patient
        .open(&balancer.url("postgres"))
        .await
        .expect("it opens");
    let mut producer = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    producer.send("before".into()).await.expect("it is sent");
    next(&mut consumer).await.commit().await.expect("committed");
    let after = before.standby();
    after.catch_up(&before);
    before.psql(
        "postgres",
        "ALTER SYSTEM SET default_transaction_read_only = on",
    );
    before.psql("postgres", "SELECT pg_reload_conf()");
    let is_told = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                   AND pid <> pg_backend_pid()";
    assert_ne!(before.psql("postgres", is_told).trim(), "0");
    after.promote();
    balancer.lead_new_to(after.port());
    producer.send("after".into()).await.expect("it is sent");
    loop {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.body(), &b"after"[..]);
        let Err(refused) = delivery.commit().await else {
            break;
        };
        // Handed out under the lease of the server before, which is nobody's here: it comes again.
        assert_eq!(refused.kind(), ErrorKind::Fenced, "{refused}");
    }
    let here = "SELECT count(*) FROM flowstream.members m JOIN pg_stat_activity a USING (pid)
                WHERE m.incarnation = flowstream.incarnation() AND a.query LIKE '%LISTEN%'";
    eventually("it listens there", async || {
        after.psql("postgres", here).trim() == "1"
    })
    .await;
    eventually("no connection is left behind", async || {
        before.psql("postgres", is_told).trim() == "0"
    })
    .await;
}

/// A server that ends idle sessions ended the one that listens, time and again, and each time the process
/// looked dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_listens_may_be_idle() {
    let database = cluster().database();
    let role = format!("idles_{database}");
    let made = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET idle_session_timeout = '50ms'"
    );
    cluster().psql(&database, &made);
    let flow = open(&cluster().url_as(&role, &database)).await;
    let mut listener = flow.consumer("orders", "billing").await.expect("a group");
    let polling = tokio::spawn(async move { listener.try_next().await.map(|_| ()) });
    let since = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND query LIKE '%LISTEN%' \
         AND clock_timestamp() - state_change > interval '2 seconds'"
    );
    eventually("it listens for longer than that", async || {
        cluster().psql(&database, &since).trim() == "1"
    })
    .await;
    polling.abort();
}

/// A transaction of the application that is refused gives its connection back to the pool.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_takes_no_writes_leaves_no_session_behind() {
    let (database, role) = prepared().await;
    let pool = pool(&cluster().url_as(&role, &database), 4);
    fill(&pool, 4).await;
    let flow = on_pool(&pool, PostgresOptions::new().listen(false)).await;
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut tx = pool.begin().await.expect("a transaction");
    let refused = orders.append_in(&mut tx, Message::new("a")).await;
    let refused = refused.expect_err("it is read-only");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    tx.rollback().await.expect("rolled back");
    writes_again(&database, &role);
    // Each that is refused leaves one more behind, or it did.
    eventually("all sessions of the pool take writes", async || {
        let (mut all, mut taken) = (Vec::new(), 0);
        for _ in 0..4 {
            let mut tx = pool.begin().await.expect("a transaction");
            let appended = orders.append_in(&mut tx, Message::new("a")).await;
            taken += usize::from(appended.is_ok());
            all.push(tx);
        }
        for tx in all {
            tx.rollback().await.expect("rolled back");
        }
        // They lie idle for a while.
        tokio::time::sleep(Duration::from_millis(50)).await;
        taken == 4
    })
    .await;
    let mut tx = pool.begin().await.expect("a transaction");
    let message = Message::new("a");
    orders.append_in(&mut tx, message).await.expect("appended");
    postgres::commit(tx).await.expect("committed");
}

/// Where its session took no writes, a process was not registered, and stayed so for good: others did not
/// see its death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_registers_once_it_can() {
    let (database, role) = prepared().await;
    let flow = open(&cluster().url(&database)).await;
    let consumer = flow.consumer("orders", "billing").await.expect("a group");
    consumer.control().shutdown().await;
    flow.close().await.expect("it closes");
    cluster().wait_for_sessions(&database);
    cluster().psql(&database, "DELETE FROM flowstream.members");

    let flow = open(&cluster().url_as(&role, &database)).await;
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    // It waits until it is known whether the process is registered.
    let refused = in_time("an error", consumer.try_next()).await;
    let refused = refused.expect_err("no lease can be claimed");
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    writes_again(&database, &role);
    let consuming = tokio::spawn(async move {
        // Standing by may have been refused once more.
        while consumer.try_next().await.is_err() {}
        consumer
    });
    let mut producer = flow.producer("orders").await.expect("a producer");
    while send(&mut producer).await.is_err() {}
    let _consumer = in_time("a delivery", consuming).await.unwrap();
    let here = "SELECT count(*) FROM flowstream.members m JOIN pg_stat_activity a USING (pid)";
    eventually("it is registered", async || {
        cluster().psql(&database, here).trim() == "1"
    })
    .await;
}

/// Ended by the server because it idled in a transaction: this was an internal error, and a commit said
/// that the transaction was not allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_server_ended_may_begin_again() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, 2);
    let flow = on_pool(&pool, PostgresOptions::new()).await;
    let mut orders = flow.producer("orders").await.expect("a producer");
    orders.send("a".into()).await.expect("it is sent");
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    let delivery = next(&mut consumer).await;
    for call in 0..3 {
        let mut tx = pool.begin().await.expect("a transaction");
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()");
        let pid: i32 = pid.fetch_one(&mut *tx).await.expect("a number");
        let soon = "SET LOCAL idle_in_transaction_session_timeout = '1ms'";
        sqlx::raw_sql(soon)
            .execute(&mut *tx)
            .await
            .expect("it is set");
        let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
        eventually("the session ends", async || {
            cluster().psql(&database, &there).trim() == "0"
        })
        .await;
        let error = match call {
            0 => {
                let appended = orders.append_in(&mut tx, Message::new("b")).await;
                appended.map_err(Into::into)
            }
            1 => delivery.commit_in(&mut tx).await,
            _ => postgres::commit(tx).await,
        };
        let error = error.expect_err("it is over");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{call}: {error}");
    }
    let mut tx = pool.begin().await.expect("a transaction");
    delivery.commit_in(&mut tx).await.expect("it has the lease");
    postgres::commit(tx).await.expect("committed");
}

/// Of PostgreSQL 17: a session that is told how long a transaction may take ends with it. Sessions of
/// ours have a timeout for each statement, and need no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_timeout_ends_the_session_and_nothing_else() {
    let version = cluster().psql("postgres", "SHOW server_version_num");
    if version.trim() < "170000" {
        eprintln!("this server has no transaction_timeout: skipped");
        return;
    }
    let database = cluster().database();
    let role = format!("hurries_{database}");
    let flow = open(&cluster().url(&database)).await;
    flow.create_stream("orders", 1).await.expect("a stream");
    let made = format!(
        "CREATE ROLE {role} SUPERUSER LOGIN; ALTER ROLE {role} SET transaction_timeout = '3s'"
    );
    cluster().psql(&database, &made);
    let url = cluster().url_as(&role, &database);
    let pool = pool(&url, 1);
    let theirs = on_pool(&pool, PostgresOptions::new()).await;
    let mut producer = theirs.producer("orders").await.expect("a producer");
    send(&mut producer).await.expect("it is sent");
    let lock = "BEGIN; SELECT FROM flowstream.partitions FOR UPDATE";
    let mut holder = PgConnection::connect(&cluster().url(&database))
        .await
        .unwrap();
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let late = send(&mut producer).await.expect_err("it takes too long");
    assert_eq!(late.kind(), ErrorKind::Unavailable, "{late}");
    assert!(late.in_doubt(), "{late}");

    // A lock is waited for less long than somebody may hold it here.
    let patient = Options::new().retry_for(PATIENCE);
    let ours = patient.open(&url).await.expect("it opens");
    let mut producer = ours.producer("orders").await.expect("a producer");
    let sending = tokio::spawn(async move { send(&mut producer).await });
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' \
         AND wait_event_type = 'Lock' AND clock_timestamp() - query_start > interval '4 seconds'"
    );
    eventually("it waits for longer", async || {
        cluster().psql(&database, &waiting).trim() == "1"
    })
    .await;
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut holder)
        .await
        .unwrap();
    sending.await.unwrap().expect("nothing ended it");
    assert_eq!(ours.bounds("orders").await.expect("bounds")[0], 0..2);
}

/// Whatever says that a session is over: it is closed, also where the session goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_told_to_end_goes() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, 1);
    let flow = on_pool(&pool, PostgresOptions::new()).await;
    flow.create_stream("orders", 1).await.expect("a stream");
    cluster().psql(
        &database,
        "CREATE TABLE public.fault (code text);
         CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE found text;
         BEGIN
            SELECT code INTO found FROM public.fault;
            IF found IS NOT NULL THEN RAISE EXCEPTION 'it ends' USING ERRCODE = found; END IF;
            RETURN NEW;
         END $$;
         CREATE TRIGGER fail BEFORE INSERT ON flowstream.batches FOR EACH ROW
            EXECUTE FUNCTION public.fail()",
    );
    let mut producer = flow.producer("orders").await.expect("a producer");
    let pid = async || {
        let pid = sqlx::query_scalar::<_, i32>("SELECT pg_backend_pid()");
        pid.fetch_one(&pool).await.expect("a number")
    };
    for (code, in_doubt) in [
        ("25P03", true),
        ("25P04", true),
        ("57P01", true),
        ("57P05", true),
        ("08006", true),
        ("08P01", true),
        ("25006", false),
    ] {
        let set = format!("TRUNCATE public.fault; INSERT INTO public.fault VALUES ('{code}')");
        cluster().psql(&database, &set);
        let before = pid().await;
        let error = send(&mut producer).await.expect_err("it fails");
        assert_eq!(
            (error.kind(), error.in_doubt()),
            (ErrorKind::Unavailable, in_doubt),
            "{code}: {error}"
        );
        assert_ne!(before, pid().await, "{code}: another session");
    }
    cluster().psql(&database, "TRUNCATE public.fault");
    send(&mut producer).await.expect("it is sent");
}
