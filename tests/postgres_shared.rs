//! One statement carries what many want: what is wrong with one of them is no concern of the others,
//! and whatever became of it can be found out.

#![cfg(feature = "postgres")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flowstream::storage::{
    Append, Appended, Claim, Group, Id, Name, Over, Partition, PostgresOptions, PostgresStorage,
    RecordsBuilder, Row, Storage,
};
use flowstream::{ErrorKind, Flowstream, Message, Options};
use futures::SinkExt;
use postgres_support::Cluster;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

async fn partition(storage: &PostgresStorage, stream: &str) -> Partition {
    let stream = Name::new(stream).unwrap();
    let created = storage.create_stream(&stream, None).await;
    created.expect("a stream");
    Partition { stream, index: 0 }
}

fn one(partition: &Partition) -> Arc<Append> {
    let builder: RecordsBuilder = [&Message::new("a")].into_iter().collect();
    Arc::new(Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition.clone(),
            records: builder.build().expect("a record"),
        }],
        commits: vec![],
    })
}

/// A session that holds the lock of this stream's partitions until it is dropped.
async fn hold(url: &str, stream: &str) -> PgConnection {
    let mut session = PgConnection::connect(url).await.unwrap();
    let lock = format!(
        "BEGIN; SELECT FROM flowstream.partitions p JOIN flowstream.streams s USING (stream_id) \
         WHERE s.name = '{stream}' FOR UPDATE OF p"
    );
    let held = sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut session);
    held.await.unwrap();
    session
}

/// Returns once so many statements wait for a lock.
async fn waiting(database: &str, count: usize) {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    );
    while cluster()
        .psql(database, &sql)
        .trim()
        .parse::<usize>()
        .unwrap()
        < count
    {
        tokio::task::yield_now().await;
    }
}

async fn lengths(flow: &Flowstream, streams: &[&str]) -> Vec<u64> {
    let mut lengths = Vec::new();
    for stream in streams {
        lengths.push(flow.bounds(stream).await.expect("bounds")[0].end);
    }
    lengths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn units_that_share_a_statement_fail_one_by_one() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
    let storage = Arc::new(storage.expect("it opens"));
    let flow = Options::new().open_storage(storage.clone());
    let mut first = flow.producer("orders").await.expect("a producer");
    let mut second = flow.producer("orders").await.expect("a producer");
    let mut relay = flow.producer("orders").await.expect("a producer");
    let mut lost = flow.producer("gone").await.expect("a producer");
    let mut both = flow.producer("orders").await.expect("a producer");
    let mut input = flow.producer("input").await.expect("a producer");
    input.send("relayed".into()).await.expect("it is sent");

    // A message whose lease is lost meanwhile,
    let mut consumer = flow.consumer("input", "billing").await.expect("a consumer");
    let delivery = consumer.try_next().await.expect("no error").expect("one");
    let group = Group {
        partition: partition(&storage, "input").await,
        name: Name::new("billing").unwrap(),
    };
    let states = storage.observe(std::slice::from_ref(&group)).await;
    let state = states.expect("a state")[0].clone().expect("it is known");
    let claim = Claim {
        group,
        owner: Id::random(),
        over: Some(Over::another(state.epoch, state.generation)),
    };
    storage.claim(claim).await.expect("a claim");
    // and a stream that is there no more.
    cluster().psql(
        &database,
        "DELETE FROM flowstream.partitions p USING flowstream.streams s
            WHERE s.stream_id = p.stream_id AND s.name = 'gone';
         DELETE FROM flowstream.streams WHERE name = 'gone'",
    );

    let holder = hold(&url, "orders").await;
    let waits = tokio::spawn(async move { first.send("1".into()).await });
    waiting(&database, 1).await;
    // All that comes now is one statement.
    let batch = ["orders", "gone"].map(|stream| Message::new("3").with_stream(stream).unwrap());
    let (sent, relayed, missing, torn, ()) = tokio::join!(
        second.send("2".into()),
        relay.send(delivery.into_message()),
        lost.send("lost".into()),
        both.append(batch.into_iter().collect::<flowstream::Batch>()),
        async { drop(holder) },
    );
    waits.await.unwrap().expect("it is sent");
    sent.expect("it is sent");
    relayed.expect("it is dropped: the new owner gets it again");
    for error in [missing.unwrap_err(), torn.unwrap_err().error] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.in_doubt(), "{error}");
    }
    assert_eq!(lengths(&flow, &["orders", "input"]).await, [2, 1]);
    let group = flow.group("input", "billing").await.expect("a group");
    assert_eq!(group[0].position(), 0);
    // What was kept goes with the next, to a stream that is made again.
    lost.send("found".into()).await.expect("it is sent");
    let batch: Vec<_> = flow.read("gone", 0, 0).await.expect("a page");
    let bodies: Vec<_> = batch
        .iter()
        .map(|(_, message)| &message.body()[..])
        .collect();
    assert_eq!(bodies, [&b"lost"[..], b"found"]);
}

/// The client gave up and the server did not: settling waits, and then it is clear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_statement_is_settled_while_it_runs() {
    for is_cancelled in [false, true] {
        let database = cluster().database();
        let url = cluster().url(&database);
        let server: PgConnectOptions = url.parse().unwrap();
        let pool = PgPool::connect_lazy_with(server.options([("lock_timeout", "300s")]));
        let hasty = PostgresOptions::new().statement_timeout(Duration::from_millis(100));
        let hasty = PostgresStorage::from_pool(pool, hasty)
            .await
            .expect("it opens");
        let options = PostgresOptions::new().statement_timeout(Duration::from_secs(300));
        let server: PgConnectOptions = url.parse().unwrap();
        let server = server.options([("lock_timeout", "300s")]);
        let patient = PostgresStorage::connect_with(server, options).await;
        let patient = Arc::new(patient.expect("it opens"));
        let orders = partition(&patient, "orders").await;

        let holder = hold(&url, "orders").await;
        let once = one(&orders);
        // It may be late before it is sent.
        loop {
            let error = hasty.append(once.clone()).await.expect_err("it is late");
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            if error.in_doubt() {
                break;
            }
        }
        if is_cancelled {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
            while cluster().psql(&database, sql).trim() != "0" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let settling = tokio::spawn({
            let (patient, id, orders) = (patient.clone(), once.id, orders.clone());
            async move { patient.settle(id, &[orders]).await }
        });
        waiting(&database, 1).await;
        drop(holder);
        let settled = settling.await.unwrap().expect("an answer");
        if is_cancelled {
            assert_eq!(settled, None);
        }
        let again = patient.append(once).await.expect("an answer");
        let end = patient.bounds(&[orders]).await.expect("bounds")[0].end;
        match settled {
            Some(bases) => assert_eq!((again, end), (Appended::Known(bases), 1)),
            None => assert_eq!((again, end), (Appended::Refused, 0)),
        }
    }
}

/// What is trimmed stays known for longer than anybody tries again, and after that nobody says that
/// it was not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trimmed_append_is_known_and_later_forgotten() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
    let storage = storage.expect("it opens");
    let orders = partition(&storage, "orders").await;
    let once = one(&orders);
    storage.append(once.clone()).await.expect("an append");
    for _ in 0..1_100 {
        storage.append(one(&orders)).await.expect("an append");
    }
    let known = Appended::Known(vec![0]);
    assert_eq!(storage.trim(&orders, 1_101).await.expect("a trim"), 1_101);
    assert_eq!(storage.append(once.clone()).await.unwrap(), known);
    let at = std::slice::from_ref(&orders);
    assert_eq!(storage.settle(once.id, at).await.unwrap(), Some(vec![0]));

    let old = "UPDATE flowstream.batches SET appended_at = appended_at - interval '2 hours'";
    cluster().psql(&database, old);
    storage.append(one(&orders)).await.expect("an append");
    assert_eq!(storage.trim(&orders, 1_102).await.expect("a trim"), 1_102);
    let error = storage.settle(once.id, at).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
    // The newest is never deleted: offsets are not used again.
    assert_eq!(storage.bounds(at).await.expect("bounds")[0], 1_102..1_102);
    let next = storage.append(one(&orders)).await.expect("an append");
    assert_eq!(next.bases(), Some(vec![1_102]));
}
