//! Sessions that are not the storage's own: a transaction pooler, and pools of the application.

#![cfg(feature = "postgres")]

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Consumer, Delivery, ErrorKind, Flowstream, Message, Options, Status};
use futures::{SinkExt, StreamExt, TryStreamExt};
use postgres_support::{Bouncer, Cluster};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

async fn on_pool(url: &str, options: PostgresOptions) -> Flowstream {
    let server: PgConnectOptions = url.parse().unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(6)
        .connect_lazy_with(server.statement_cache_capacity(0));
    let storage = PostgresStorage::from_pool(pool, options).await;
    Options::new().open_storage(Arc::new(storage.expect("it opens")))
}

async fn send(flow: &Flowstream, numbers: std::ops::Range<u32>) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    for number in numbers {
        let message = Message::new(number.to_string());
        producer.feed(message).await.expect("it is taken");
    }
    producer.close().await.expect("all are sent");
}

async fn consumer(flow: &Flowstream) -> Consumer {
    let consumer = flow.consumer("orders", "billing");
    let consumer = consumer.lease(Duration::from_secs(2)).await;
    consumer.expect("a consumer")
}

async fn next(consumer: &mut Consumer) -> Delivery {
    let next = consumer.try_next().await.expect("no error");
    next.expect("a delivery")
}

/// Produces, consumes, forwards, hands over, and takes over from one who is silent.
async fn a_day_of_work(first: Flowstream, second: Flowstream) {
    send(&first, 0..300).await;
    let mut active = consumer(&first).await;
    for number in 0..100 {
        let delivery = next(&mut active).await;
        assert_eq!(delivery.body(), &number.to_string());
        delivery.commit().await.expect("a commit");
    }
    // It stands by, and gets the lease when the first gives it back.
    let mut standby = consumer(&second).await;
    let (control, standing) = (standby.control(), async { next(&mut standby).await });
    let (delivery, ()) = tokio::join!(standing, async {
        control.wait_for(|status| status == Status::Standby).await;
        active.control().shutdown().await;
    });
    assert_eq!((delivery.offset(), delivery.attempt()), (100, 1));
    delivery.commit().await.expect("a commit");
    // One that dies is replaced, when it stood still for a lease.
    standby.control().shutdown().await;
    let dead = die(first.clone()).await;
    let mut third = consumer(&second).await;
    let again = next(&mut third).await;
    assert_eq!((again.offset(), again.attempt()), (101, 2));
    assert!(again.epoch() > dead.epoch());
    dead.commit().await.expect_err("it is not its any more");
    again.commit().await.expect("a commit");
    third.control().shutdown().await;

    // Into another stream, exactly once.
    let consumer = first.consumer("orders", "relay").await.expect("a consumer");
    let control = consumer.control();
    let producer = second.producer("copies").await.expect("a producer");
    let relaying = tokio::spawn(consumer.map_ok(Delivery::into_message).forward(producer));
    while first.group("orders", "relay").await.expect("a group")[0].position() < 300 {
        tokio::task::yield_now().await;
    }
    control.shutdown().await;
    relaying.await.unwrap().expect("it ends");
    assert_eq!(second.bounds("copies").await.expect("bounds")[0], 0..300);
    for flow in [first, second] {
        flow.close().await.expect("it closes");
    }
}

/// Gets a delivery on a runtime that ends: nobody can renew or release.
async fn die(flow: Flowstream) -> Delivery {
    let dying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (consumer, delivery) = runtime.block_on(async {
            let mut consumer = consumer(&flow).await;
            let delivery = next(&mut consumer).await;
            (consumer, delivery)
        });
        drop(runtime);
        drop(consumer);
        delivery
    });
    let dead = tokio::task::spawn_blocking(|| dying.join());
    dead.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_work_through_a_transaction_pooler() {
    static BOUNCER: OnceLock<Option<Bouncer>> = OnceLock::new();
    let Some(bouncer) = BOUNCER.get_or_init(|| Bouncer::start(cluster())) else {
        eprintln!("pgbouncer is not installed: skipped");
        return;
    };
    let database = cluster().database();
    // No session is as the storage wants it.
    cluster().psql(
        "postgres",
        &format!("ALTER DATABASE {database} SET default_transaction_isolation = 'serializable'"),
    );
    let (through, direct) = (bouncer.url(&database), cluster().url(&database));
    let pooled = PostgresOptions::new().pooled(true);
    let listening = pooled.clone().listen_on(direct.parse().unwrap());
    for (number, options) in [pooled, listening].into_iter().enumerate() {
        let options = options.schema(format!("by_url_{number}"));
        let open = || Options::new().postgres(options.clone()).open(&through);
        let (first, second) = (open().await.unwrap(), open().await.unwrap());
        a_day_of_work(first, second).await;
        // The application's own pool, which goes through the pooler.
        let options = options.schema(format!("by_pool_{number}"));
        let first = on_pool(&through, options.clone()).await;
        a_day_of_work(first, on_pool(&through, options).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_work_without_prepared_statements() {
    let url = cluster().url(&cluster().database());
    let options = PostgresOptions::new();
    let first = on_pool(&url, options.clone()).await;
    a_day_of_work(first, on_pool(&url, options).await).await;
}

/// What is not answered by then is late; what is not held up is answered on a slow machine, too.
const LATE: Duration = Duration::from_secs(5);

/// How many statements of the storage run or wait.
fn at_work(database: &str) -> u32 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE datname = '{database}' AND state = 'active' AND query LIKE '/* flowstream%'"
    );
    cluster().psql(database, &sql).trim().parse().unwrap()
}

/// A statement that nobody waits for any more ends on the server, though no session has a timeout.
async fn a_late_statement_ends(storage: PostgresStorage, database: &str) {
    let options = Options::new().retry_for(Duration::ZERO);
    let flow = options.open_storage(Arc::new(storage));
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut holder = PgConnection::connect(&cluster().url(database))
        .await
        .unwrap();
    let lock = "BEGIN; LOCK flowstream.batches";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let error = orders.append(Message::new("late")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let deadline = Instant::now() + Duration::from_secs(120);
    while at_work(database) > 0 {
        assert!(Instant::now() < deadline, "it is cancelled");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // It is as if it had never been.
    drop(holder);
    assert_eq!(flow.bounds("orders").await.expect("bounds")[0], 0..0);
    orders.append(Message::new("next")).await.expect("appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_statement_is_cancelled_in_a_pool_of_the_application() {
    let database = cluster().database();
    // It waits for locks as long as it takes.
    let server: PgConnectOptions = cluster().url(&database).parse().unwrap();
    let pool = PgPool::connect_lazy_with(server.options([("lock_timeout", "1h")]));
    let options = PostgresOptions::new().statement_timeout(LATE);
    let storage = PostgresStorage::from_pool(pool, options).await;
    a_late_statement_ends(storage.expect("it opens"), &database).await;
}

/// A role may cancel its own statements only, and they are of the one that logged in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_statement_is_cancelled_where_the_pool_takes_a_role_on() {
    let database = cluster().database();
    let (owner, login) = (format!("{database}_owner"), format!("{database}_login"));
    let roles = format!(
        "CREATE ROLE {owner}; CREATE ROLE {login} LOGIN IN ROLE {owner};
         ALTER DATABASE {database} OWNER TO {owner}"
    );
    for sql in roles.split(';') {
        cluster().psql("postgres", sql);
    }
    let server: PgConnectOptions = cluster().url_as(&login, &database).parse().unwrap();
    let server = server.options([("role", &*owner), ("lock_timeout", "1h")]);
    let options = PostgresOptions::new().statement_timeout(LATE);
    let storage = PostgresStorage::from_pool(PgPool::connect_lazy_with(server), options).await;
    a_late_statement_ends(storage.expect("it opens"), &database).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_statement_ends_through_a_pooler() {
    let database = cluster().database();
    let Some(bouncer) = Bouncer::start(cluster()) else {
        eprintln!("pgbouncer is not installed: skipped");
        return;
    };
    let options = PostgresOptions::new().pooled(true);
    let options = options.statement_timeout(LATE);
    let storage = PostgresStorage::connect(&bouncer.url(&database), options).await;
    a_late_statement_ends(storage.expect("it opens"), &database).await;
}
