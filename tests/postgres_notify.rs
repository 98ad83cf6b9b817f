//! Waking up: what other processes did is heard of, and what gets lost is found all the same.

#![cfg(feature = "postgres")]

use std::sync::{Arc, OnceLock};

use flowstream::storage::{
    Append, Group, Id, Name, Notification, Partition, PostgresOptions, PostgresStorage,
    RecordsBuilder, Row, Start, Storage,
};
use flowstream::{Flowstream, Message, Options};
use futures::stream::BoxStream;
use futures::{SinkExt, StreamExt};
use postgres_support::proxy::{Network, Proxy};
use postgres_support::{Bouncer, Cluster};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

async fn open(url: &str) -> PostgresStorage {
    let storage = PostgresStorage::connect(url, PostgresOptions::new()).await;
    storage.expect("it opens")
}

async fn partition(storage: &PostgresStorage) -> Partition {
    let stream = Name::new("orders").unwrap();
    storage
        .create_stream(&stream, None)
        .await
        .expect("a stream");
    Partition { stream, index: 0 }
}

async fn write(storage: &PostgresStorage, partition: &Partition) {
    let builder: RecordsBuilder = [&Message::new("a")].into_iter().collect();
    let append = Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition.clone(),
            records: builder.build().unwrap(),
        }],
        commits: vec![],
    };
    storage.append(Arc::new(append)).await.expect("an append");
}

type Subscription = BoxStream<'static, Notification>;

/// Waits for the word that it listens: what comes before may be missed.
async fn listening(storage: &PostgresStorage) -> Subscription {
    let mut subscription = storage.notifications();
    assert_eq!(subscription.next().await, Some(Notification::Missed));
    subscription
}

async fn hears(subscription: &mut Subscription, wanted: impl Fn(&Notification) -> bool) {
    while !wanted(&subscription.next().await.expect("it is open")) {}
}

fn is_missed(notification: &Notification) -> bool {
    *notification == Notification::Missed
}

async fn listeners(database: &str) -> Vec<u32> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE 'LISTEN%'"
    );
    let pids = cluster().psql(database, &sql);
    pids.lines()
        .filter_map(|pid| pid.trim().parse().ok())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appends_and_releases_of_others_are_heard() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let (here, there) = (open(&url).await, open(&url).await);
    let orders = partition(&here).await;
    let mut subscription = listening(&here).await;
    write(&there, &orders).await;
    let told = Notification::Appended(orders.clone(), 1);
    assert_eq!(subscription.next().await, Some(told), "exactly once");

    let billing = Group {
        partition: orders.clone(),
        name: Name::new("billing").unwrap(),
    };
    there
        .create_group(&billing, Start::Earliest)
        .await
        .expect("a group");
    let owner = Id::random();
    let claim = flowstream::storage::Claim {
        group: billing.clone(),
        owner,
        over: None,
    };
    let epoch = there.claim(claim).await.expect("a claim").epoch;
    let lease = flowstream::storage::Lease {
        group: billing,
        owner,
        epoch,
    };
    there.release(&lease).await.expect("a release");
    assert_eq!(
        subscription.next().await,
        Some(Notification::Released(orders))
    );
    assert_eq!(
        listeners(&database).await.len(),
        1,
        "only who subscribed listens"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_foreign_notifications_is_ignored() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let (here, there) = (open(&url).await, open(&url).await);
    let orders = partition(&here).await;
    let mut subscription = listening(&here).await;
    cluster().psql(
        &database,
        "SELECT pg_notify('flowstream', text) FROM generate_series(1, 20000) n,
         LATERAL (VALUES ('garbage ' || n), ('x a 0 ' || n || ' other'), ('x a 0 z orders')) t (text)",
    );
    write(&there, &orders).await;
    let (mut others, mut ours) = (0, 0);
    while ours == 0 {
        match subscription.next().await.expect("it is open") {
            Notification::Appended(of, 1) if of == orders => ours += 1,
            // Too slow for the flood: then it has to look, and there it is.
            Notification::Missed => ours += 1,
            _ => others += 1,
        }
    }
    assert!(others <= 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_listener_says_so_and_comes_back() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let (here, there) = (open(&url).await, open(&url).await);
    let orders = partition(&here).await;
    let mut subscription = listening(&here).await;
    for round in 1..=3 {
        for pid in listeners(&database).await {
            cluster().psql(&database, &format!("SELECT pg_terminate_backend({pid})"));
        }
        hears(&mut subscription, is_missed).await;
        hears(&mut subscription, is_missed).await;
        write(&there, &orders).await;
        hears(&mut subscription, |heard| {
            *heard == Notification::Appended(orders.clone(), round) || is_missed(heard)
        })
        .await;
    }
}

async fn next_body(consumer: &mut flowstream::Consumer) -> Vec<u8> {
    let delivery = consumer
        .try_next()
        .await
        .expect("no error")
        .expect("a delivery");
    let body = delivery.body().to_vec();
    delivery.commit().await.expect("a commit");
    body
}

async fn send(flow: &Flowstream, body: &'static str) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send(Message::new(body)).await.expect("it is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_cannot_come_back_costs_time_and_no_message() {
    let database = cluster().database();
    let proxy = Proxy::start(cluster().port()).await;
    let direct = proxy.url(&database).parse().unwrap();
    let options = Options::new().postgres(PostgresOptions::new().listen_on(direct));
    let url = cluster().url(&database);
    let here = options.open(&url).await.expect("it opens");
    let there = flowstream::open(&url).await.expect("it opens");
    let mut consumer = here
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    send(&there, "before").await;
    assert_eq!(next_body(&mut consumer).await, b"before");
    proxy.set(Network::Cut);
    send(&there, "cut").await;
    assert_eq!(next_body(&mut consumer).await, b"cut");
    proxy.set(Network::Silent);
    send(&there, "silent").await;
    assert_eq!(next_body(&mut consumer).await, b"silent");
    proxy.set(Network::Works);
    send(&there, "after").await;
    assert_eq!(next_body(&mut consumer).await, b"after");
}

/// Lost without a word: the query on an interval finds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_notification_is_made_up_for() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let here = flowstream::open(&url).await.expect("it opens");
    let there = open(&url).await;
    let mut consumer = here
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    send(&here, "before").await;
    assert_eq!(next_body(&mut consumer).await, b"before");
    // As an application that writes the rows itself: nobody tells.
    let orders = partition(&there).await;
    for next in 1..4 {
        cluster().psql(
            &database,
            &format!(
                "INSERT INTO flowstream.batches SELECT stream_id, 0, {next}, 1, clock_timestamp(), \
                 gen_random_uuid(), '\\x04000000', 'lost' FROM flowstream.streams"
            ),
        );
        assert_eq!(next_body(&mut consumer).await, b"lost");
    }
    let bounds = there.bounds(&[orders]).await.expect("bounds");
    assert_eq!(bounds[0], 0..4);
}

/// Where nothing is told, and one of those that are looked at is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_gone_keeps_nobody_from_the_others() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let deaf = Options::new().postgres(PostgresOptions::new().listen(false));
    let here = deaf.open(&url).await.expect("it opens");
    let there = flowstream::open(&url).await.expect("it opens");
    let gone = here.consumer("gone", "billing").await.expect("a consumer");
    let lost = gone.control();
    let losing = tokio::spawn(gone.for_each(async |_| {}));
    lost.wait_for(|status| status.is_active()).await;
    let mut consumer = here
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    send(&there, "before").await;
    assert_eq!(next_body(&mut consumer).await, b"before");
    cluster().psql(
        &database,
        "DELETE FROM flowstream.partitions p USING flowstream.streams s
            WHERE s.stream_id = p.stream_id AND s.name = 'gone';
         DELETE FROM flowstream.streams WHERE name = 'gone'",
    );
    for body in ["one", "two"] {
        send(&there, body).await;
        assert_eq!(next_body(&mut consumer).await, body.as_bytes());
    }
    losing.abort();
}

/// As with a queue that is full, because some session that listens is stuck in a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_no_notifications_costs_time_and_no_message() {
    let database = cluster().database();
    cluster().psql(
        &database,
        &format!(
            "CREATE SCHEMA full_queue;
             CREATE FUNCTION full_queue.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$BEGIN
                RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = '54000';
             END$$;
             ALTER DATABASE {database} SET search_path = full_queue, pg_catalog"
        ),
    );
    let url = cluster().url(&database);
    let here = flowstream::open(&url).await.expect("it opens");
    let there = flowstream::open(&url).await.expect("it opens");
    let mut consumer = here
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    for body in ["one", "two", "three"] {
        send(&there, body).await;
        assert_eq!(next_body(&mut consumer).await, body.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_transaction_pooler() {
    let database = cluster().database();
    let Some(bouncer) = Bouncer::start(cluster()) else {
        eprintln!("pgbouncer is not installed: skipped");
        return;
    };
    let pooled = PostgresOptions::new().pooled(true);
    let direct = cluster().url(&database).parse().unwrap();
    let url = bouncer.url(&database);
    for options in [pooled.clone(), pooled.listen_on(direct)] {
        let here = Options::new().postgres(options.clone()).open(&url);
        let here = here.await.expect("it opens through the pooler");
        let there = Options::new().postgres(options).open(&url);
        let there = there.await.expect("it opens through the pooler");
        let mut consumer = here
            .consumer("orders", "billing")
            .await
            .expect("a consumer");
        let writers = (0..4).map(|_| {
            let there = there.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    send(&there, "a").await;
                }
            })
        });
        let writers: Vec<_> = writers.collect();
        for _ in 0..200 {
            assert_eq!(next_body(&mut consumer).await, b"a");
        }
        for writer in writers {
            writer.await.expect("a writer");
        }
        consumer.control().shutdown().await;
        here.close().await.expect("it closes");
        there.close().await.expect("it closes");
    }
}
