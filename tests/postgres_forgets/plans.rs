//! What a session has prepared is forgotten when the schema is another one.

use flowstream::postgres::{self, DeliveryExt};
use flowstream::storage::PostgresOptions;
use flowstream::{ErrorKind, Flowstream};
use futures::SinkExt;
use sqlx::postgres::PgPoolOptions;

use crate::{cluster, eventually, next, on_pool, open, pool};

/// As a newer process may do it: the type of what a statement gives is another one. (The function is in
/// the way, and nothing here needs it.)
const MIGRATION: &str = r#"
    DROP FUNCTION IF EXISTS flowstream.leases_of;
    ALTER TABLE flowstream.leases ALTER name TYPE varchar(300) COLLATE "C""#;

async fn prepare(flow: &Flowstream) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    producer.send("b".into()).await.expect("it is sent");
    drop(flow.consumer("orders", "billing").await.expect("a group"));
}

/// Each connection that had the plan said "cached plan must not change result type", for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_from_before_a_migration_is_made_anew() {
    for is_pool in [false, true] {
        let database = cluster().database();
        let url = cluster().url(&database);
        let pool = pool(&url, 4);
        let flow = match is_pool {
            true => on_pool(&pool, PostgresOptions::new()).await,
            false => open(&url).await,
        };
        prepare(&flow).await;
        // On several connections.
        for _ in 0..3 {
            let all = futures::future::join_all((0..8).map(|_| flow.groups(None))).await;
            for groups in all {
                assert_eq!(groups.expect("no error").len(), 1);
            }
            cluster().psql(&database, MIGRATION);
            cluster().psql(
                &database,
                r#"ALTER TABLE flowstream.leases ALTER name TYPE text COLLATE "C""#,
            );
            cluster().psql(&database, MIGRATION);
        }
    }
}

/// In a transaction of the application a statement that failed cannot go again; the next one can, on
/// the same connection, where it failed for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_with_a_plan_from_before_a_migration_may_begin_again() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, 1);
    let flow = on_pool(&pool, PostgresOptions::new()).await;
    prepare(&flow).await;
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    let delivery = next(&mut consumer).await;
    let mut tx = pool.begin().await.expect("a transaction");
    delivery.commit_in(&mut tx).await.expect("it has the lease");
    postgres::commit(tx).await.expect("committed");
    drop(delivery);
    let other = next(&mut consumer).await;
    let changed = "DO $do$
        DECLARE made text := pg_get_functiondef('flowstream.commit_in'::regproc);
        BEGIN
            DROP FUNCTION flowstream.commit_in;
            EXECUTE replace(made, 'OUT outcome text', 'OUT outcome varchar');
        END $do$";
    cluster().psql(&database, changed);
    let mut tx = pool.begin().await.expect("a transaction");
    let error = other
        .commit_in(&mut tx)
        .await
        .expect_err("it is another one");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    tx.rollback().await.expect("rolled back");
    let mut tx = pool.begin().await.expect("a transaction");
    other.commit_in(&mut tx).await.expect("it is planned anew");
    postgres::commit(tx).await.expect("committed");
}

/// A pool of the application that resets each session has forgotten what was prepared there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_reset_of_the_session_took_is_prepared_again() {
    let url = cluster().url(&cluster().database());
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .after_release(|session, _| {
            Box::pin(async move {
                let reset = sqlx::raw_sql("DISCARD ALL").execute(session).await;
                reset.map(|_| true)
            })
        })
        .connect_lazy(&url)
        .expect("a URL");
    let flow = on_pool(&pool, PostgresOptions::new()).await;
    // Each connection comes to the same statement more than once.
    let mut producer = flow.producer("orders").await.expect("a producer");
    for _ in 0..8 {
        producer.send("a".into()).await.expect("it is sent");
    }
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    for _ in 0..8 {
        next(&mut consumer).await.commit().await.expect("committed");
    }
}

/// What raises this once, in the statement that does something with a table.
fn once(code: &str, when: &str) -> String {
    format!(
        "CREATE SEQUENCE public.times;
         CREATE FUNCTION public.once() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
            IF nextval('public.times') = 1 THEN
                RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW;
         END $$;
         CREATE TRIGGER once {when} EXECUTE FUNCTION public.once()"
    )
}

/// Where the queue of notifications is full, which one session can bring about that listens and stays in
/// a transaction, a lease was not given back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_released_without_a_word_where_none_can_be_said() {
    let database = cluster().database();
    let flow = open(&cluster().url(&database)).await;
    prepare(&flow).await;
    let mut consumer = flow.consumer("orders", "billing").await.expect("a group");
    let delivery = next(&mut consumer).await;
    delivery.commit().await.expect("committed");
    let when = "BEFORE UPDATE ON flowstream.leases FOR EACH ROW WHEN (NEW.owner IS NULL)";
    cluster().psql(&database, &once("54000", when));
    consumer.control().shutdown().await;
    let state = flow.group("orders", "billing").await.expect("a group");
    assert_eq!(state[0].owner, None, "given back");
    let times = cluster().psql(&database, "SELECT last_value FROM public.times");
    assert_eq!(times.trim(), "2");
}

/// Others are told afterwards, or look by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_appended_is_written_where_nobody_can_be_told() {
    let database = cluster().database();
    let owner = open(&cluster().url(&database)).await;
    let mut consumer = owner.consumer("orders", "billing").await.expect("a group");
    owner.create_stream("orders", 1).await.expect("a stream");
    let consuming = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for _ in 0..2 {
            let delivery = next(&mut consumer).await;
            bodies.push(delivery.body().to_vec());
            delivery.commit().await.expect("committed");
        }
        bodies
    });
    // Whoever tells looks first whether anybody listens.
    let role = format!("quiet_{database}");
    cluster().psql(
        &database,
        &format!(
            "CREATE ROLE {role} LOGIN;
             GRANT USAGE ON SCHEMA flowstream TO {role};
             GRANT ALL ON ALL TABLES IN SCHEMA flowstream TO {role};
             CREATE FUNCTION public.is_full() RETURNS boolean SECURITY DEFINER LANGUAGE plpgsql AS $$
             BEGIN
                RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000';
             END $$;
             ALTER TABLE flowstream.members ENABLE ROW LEVEL SECURITY;
             CREATE POLICY is_full ON flowstream.members FOR SELECT USING (public.is_full())"
        ),
    );
    let flow = open(&cluster().url_as(&role, &database)).await;
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    producer.send("b".into()).await.expect("it is sent");
    let bodies = consuming.await.unwrap();
    assert_eq!(bodies, [b"a", b"b"]);
    eventually("the log has them", async || {
        flow.bounds("orders").await.expect("bounds")[0] == (0..2)
    })
    .await;
}
