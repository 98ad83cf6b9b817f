//! Servers that go away, come back, and have no room: what was promised holds, and nothing hangs.

#![cfg(feature = "postgres")]

use std::collections::{HashMap, HashSet};
use std::sync::OnceLock;
use std::time::Duration;

use flowstream::storage::{Name, PostgresOptions, PostgresStorage, Storage};
use flowstream::{Delivery, ErrorKind, Flowstream, Message, Options};
use futures::{SinkExt, StreamExt, TryStreamExt};
use postgres_support::proxy::{Network, Proxy};
use postgres_support::{Cluster, Stop};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

/// How long an outage may last.
const BUDGET: Duration = Duration::from_secs(300);

async fn open(url: &str) -> Flowstream {
    let flow = Options::new().retry_for(BUDGET).open(url).await;
    flow.expect("it opens")
}

async fn produce(
    flow: Flowstream,
    writer: u32,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> u32 {
    let mut producer = flow.producer("orders").await.expect("a producer");
    let mut sent = 0;
    while !*stop.borrow_and_update() {
        let message = Message::new(format!("{writer} {sent}"));
        producer.send(message).await.expect("within the budget");
        sent += 1;
    }
    sent
}

/// What was sent is there once and in order; what was committed is delivered once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_through_restarts() {
    let cluster = Cluster::start_new();
    let url = cluster.url("postgres");
    let (here, there) = (open(&url).await, open(&url).await);
    let consumer = there
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let relayer = there.consumer("orders", "relay").await.expect("a consumer");
    let (control, relay) = (consumer.control(), relayer.control());

    let stop = tokio::sync::watch::Sender::new(false);
    let writers = [0, 1, 2].map(|writer| {
        let producing = produce(here.clone(), writer, stop.subscribe());
        tokio::spawn(producing)
    });
    let consuming = tokio::spawn(async move {
        let delivered = std::sync::Mutex::new(HashMap::<u64, u32>::new());
        let each = |delivery: Delivery| {
            let delivered = &delivered;
            async move {
                let offset = delivery.offset();
                *delivered.lock().unwrap().entry(offset).or_default() += 1;
                match delivery.commit().await {
                    Ok(()) => Ok(Some(offset)),
                    // Lost in an outage that was longer than the lease: it comes again.
                    Err(error) if error.is_fenced() => Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        let committed: Vec<Option<u64>> = consumer
            .map_ok(each)
            .try_buffer_unordered(64)
            .try_collect()
            .await
            .expect("no error within the budget");
        (delivered.into_inner().unwrap(), committed)
    });
    let producer = there.producer("copies").await.expect("a producer");
    let relaying = relayer.map_ok(Delivery::into_message).forward(producer);
    let relaying = tokio::spawn(relaying);

    for how in [
        Stop::Fast,
        Stop::Immediate,
        Stop::Fast,
        Stop::Immediate,
        Stop::Immediate,
    ] {
        // While all are at work.
        reached(&there, 100 + end(&here).await).await;
        cluster.stop(how);
        cluster.start();
    }
    reached(&there, 100 + end(&here).await).await;
    stop.send_replace(true);
    let mut sent = 0;
    let mut each = Vec::new();
    for writer in writers {
        let count = writer.await.unwrap();
        sent += u64::from(count);
        each.push(count);
    }
    assert_eq!(end(&here).await, sent);
    reached(&there, sent).await;
    control.shutdown().await;
    relay.shutdown().await;

    let (delivered, committed) = consuming.await.unwrap();
    assert!(
        (0..sent).all(|offset| delivered.contains_key(&offset)),
        "all"
    );
    let committed: Vec<u64> = committed.into_iter().flatten().collect();
    let once: HashSet<&u64> = committed.iter().collect();
    assert_eq!(once.len(), committed.len(), "committed once");
    relaying.await.unwrap().expect("no error within the budget");
    for stream in ["orders", "copies"] {
        let bodies = bodies(&here, stream).await;
        assert_eq!(bodies.len() as u64, sent, "in {stream}");
        for (writer, count) in each.iter().enumerate() {
            let of = format!("{writer} ");
            let mine = bodies.iter().filter(|body| body.starts_with(&of));
            let expected = (0..*count).map(|number| format!("{of}{number}"));
            assert!(
                mine.eq(&expected.collect::<Vec<_>>()),
                "{writer} in {stream}"
            );
        }
    }
}

async fn end(flow: &Flowstream) -> u64 {
    flow.bounds("orders").await.expect("bounds")[0].end
}

/// Both groups are so far.
async fn reached(flow: &Flowstream, offset: u64) {
    for group in ["billing", "relay"] {
        while flow.group("orders", group).await.expect("a group")[0].position() < offset {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn bodies(flow: &Flowstream, stream: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let page = flow
            .read(stream, 0, all.len() as u64)
            .await
            .expect("a page");
        if page.is_empty() {
            return all;
        }
        let page = page.into_iter();
        all.extend(page.map(|(_, message)| String::from_utf8_lossy(message.body()).into_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_room_is_waited_for() {
    let cluster = Cluster::start_with(&[
        ("max_connections", "6"),
        ("superuser_reserved_connections", "1"),
    ]);
    cluster.psql(
        "postgres",
        "CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app",
    );
    let url = cluster.url_as("app", "postgres");
    let flow = open(&url).await;
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("before".into()).await.expect("it is sent");
    flow.close().await.expect("it closes");
    let mut hogs = Vec::new();
    while let Ok(hog) = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await {
        hogs.push(hog);
    }
    let hasty = Options::new().retry_for(Duration::ZERO);
    let error = hasty.open(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(!error.in_doubt(), "{error}");
    hogs.pop();
    // Room for one: opening gives it back, all else shares it.
    let storage = loop {
        let options = PostgresOptions::new().max_connections(1).listen(false);
        match PostgresStorage::connect(&url, options).await {
            Ok(storage) => break storage,
            // The server is not done with the one that left.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    };
    let options = Options::new().retry_for(BUDGET);
    let flow = options.open_storage(std::sync::Arc::new(storage));
    let mut producer = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let consuming = tokio::spawn(async move {
        let delivery = consumer
            .next()
            .await
            .expect("a delivery")
            .expect("no error");
        delivery.commit().await
    });
    producer.send("after".into()).await.expect("it is sent");
    // A lease needs a connection of its own.
    drop(hogs);
    consuming.await.unwrap().expect("a commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_only_says_so_and_is_waited_for() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let flow = flowstream::open(&url).await.expect("it opens");
    flow.producer("orders").await.expect("a producer");
    flow.close().await.expect("it closes");
    let set = |value| {
        let sql = format!("ALTER DATABASE {database} SET default_transaction_read_only = {value}");
        cluster().psql("postgres", &sql);
    };
    set("on");
    let options = Options::new().retry_for(Duration::ZERO);
    let flow = options.open(&url).await.expect("what is there can be read");
    assert_eq!(flow.bounds("orders").await.expect("bounds")[0], 0..0);
    let mut producer = flow.producer("orders").await.expect("a producer");
    let error = producer.send("a".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(
        error.to_string().contains("read-only") && !error.in_doubt(),
        "{error}"
    );

    let patient = open(&url).await;
    let mut producer = patient.producer("orders").await.expect("a producer");
    let sending = tokio::spawn(async move { producer.send("b".into()).await });
    set("off");
    // Sessions keep the default that they began with.
    let others = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
         WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    );
    cluster().psql(&database, &others);
    sending.await.unwrap().expect("it is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_can_be_read() {
    let primary = Cluster::start_new();
    let flow = open(&primary.url("postgres")).await;
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    let standby = primary.standby();
    let options = Options::new().retry_for(Duration::ZERO);
    let replica = options
        .open(&standby.url("postgres"))
        .await
        .expect("it opens");
    assert_eq!(bodies(&replica, "orders").await, ["a"]);
    let mut producer = replica.producer("orders").await.expect("a producer");
    let error = producer.send("b".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("standby"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_keeps_nobody_who_opens() {
    let database = cluster().database();
    let proxy = Proxy::start(cluster().port()).await;
    let url = proxy.url(&database);
    let options = || PostgresOptions::new().statement_timeout(Duration::from_millis(200));
    proxy.set(Network::Silent);
    let error = PostgresStorage::connect(&url, options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    // And after the login: the schema is asked for.
    proxy.set(Network::Works);
    let pool = sqlx::pool::PoolOptions::<sqlx::Postgres>::new()
        .test_before_acquire(false)
        .connect(&url)
        .await
        .expect("a pool");
    proxy.set(Network::Silent);
    let error = PostgresStorage::from_pool(pool, options())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_keeps_nobody_who_closes() {
    let database = cluster().database();
    let proxy = Proxy::start(cluster().port()).await;
    let options = PostgresOptions::new().statement_timeout(Duration::from_secs(10));
    let storage = PostgresStorage::connect(&proxy.url(&database), options).await;
    let storage = storage.expect("it opens");
    let subscription = storage.notifications();
    // Several connections are there.
    let streams: Vec<Name> = (0..8)
        .map(|n| Name::new(format!("s{n}")).unwrap())
        .collect();
    let creating = streams
        .iter()
        .map(|stream| storage.create_stream(stream, None));
    futures::future::try_join_all(creating)
        .await
        .expect("streams");
    proxy.set(Network::Silent);
    let error = storage.create_stream(&streams[0], None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    storage.close().await.expect("it closes");
    // It has ended.
    subscription.for_each(async |_| {}).await;
}

/// The connections of a database, besides the one that asks.
fn connections(database: &str) -> u32 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND pid <> pg_backend_pid()"
    );
    cluster().psql(database, &sql).trim().parse().unwrap()
}

async fn until_none_is_connected(database: &str) {
    while connections(database) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn work(flow: &Flowstream) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let delivery = consumer.try_next().await.expect("no error").expect("one");
    delivery.commit().await.expect("a commit");
    consumer.control().shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_left_behind() {
    let database = cluster().database();
    let url = cluster().url(&database);
    for round in 0..20 {
        let flow = flowstream::open(&url).await.expect("it opens");
        work(&flow).await;
        if round % 2 == 0 {
            flow.close().await.expect("it closes");
        }
    }
    until_none_is_connected(&database).await;
    // With its runtime.
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let flow = runtime.block_on(async {
            let flow = flowstream::open(&url).await.expect("it opens");
            work(&flow).await;
            flow
        });
        drop(runtime);
        flow
    });
    let flow = tokio::task::spawn_blocking(|| ended.join())
        .await
        .unwrap()
        .unwrap();
    // Another runtime may go on with it.
    work(&flow).await;
    drop(flow);
    until_none_is_connected(&database).await;
}
