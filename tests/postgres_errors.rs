//! What the server says, and what a caller is told: whether to try again, and whether anything may
//! have been written.

#![cfg(feature = "postgres")]

use std::sync::OnceLock;
use std::time::Duration;

use flowstream::{ErrorKind, Options};
use futures::SinkExt;
use postgres_support::{Cluster, FAULTS};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_says_is_told_by_kind() {
    use ErrorKind::{Data, Internal, Unavailable, Unsupported};

    let database = cluster().database();
    let url = cluster().url(&database);
    let hasty = Options::new().retry_for(Duration::ZERO);
    let hasty = hasty.open(&url).await.expect("it opens");
    cluster().psql(&database, FAULTS);
    let mut producer = hasty.producer("orders").await.expect("a producer");
    // The disk is full, memory is short, too many connections, a deadlock, a lock that was waited for
    // in vain, a statement that was cancelled, a server that ends, an error of its files; no rights, a
    // schema that somebody changed, damage, and a defect.
    for (code, kind, in_doubt) in [
        ("53100", Unavailable, false),
        ("53200", Unavailable, false),
        ("53300", Unavailable, false),
        ("40P01", Unavailable, false),
        ("55P03", Unavailable, false),
        ("57014", Unavailable, false),
        ("57P01", Unavailable, true),
        ("58030", Unavailable, false),
        ("25006", Unavailable, false),
        ("42501", Unsupported, false),
        ("42P01", Unsupported, false),
        ("XX001", Data, false),
        ("22012", Internal, false),
    ] {
        let set = format!("TRUNCATE public.fault; INSERT INTO public.fault VALUES ('{code}')");
        cluster().psql(&database, &set);
        let error = producer.send("a".into()).await.expect_err("it fails");
        assert_eq!(
            (error.kind(), error.in_doubt()),
            (kind, in_doubt),
            "{code}: {error}"
        );
        producer.take_unsent().await;
    }
    assert_eq!(hasty.bounds("orders").await.expect("bounds")[0], 0..0);

    // Those that pass are waited for, and then all is as if nothing had been.
    let patient = Options::new().retry_for(Duration::from_secs(300));
    let patient = patient.open(&url).await.expect("it opens");
    for (sent, code) in (1..).zip(["53100", "40P01", "57P01", "57014"]) {
        let set = format!("TRUNCATE public.fault; INSERT INTO public.fault VALUES ('{code}')");
        cluster().psql(&database, &set);
        let mut producer = patient.producer("orders").await.expect("a producer");
        let sending = tokio::spawn(async move { producer.send("b".into()).await });
        cluster().psql(&database, "TRUNCATE public.fault");
        sending.await.unwrap().expect("it is sent");
        assert_eq!(patient.bounds("orders").await.expect("bounds")[0], 0..sent);
    }
}

/// Two that lock in another order than ours: one of the two is given up, and ours goes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_with_somebody_else_passes() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let options = Options::new().retry_for(Duration::from_secs(300));
    let flow = options.open(&url).await.expect("it opens");
    flow.create_stream("orders", 2).await.expect("a stream");
    let lock = |partition| {
        format!("SELECT FROM flowstream.partitions WHERE partition = {partition} FOR UPDATE")
    };
    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&url)
        .await
        .unwrap();
    let begin = format!("SET deadlock_timeout = '1h'; BEGIN; {}", lock(1));
    let held = sqlx::raw_sql(sqlx::AssertSqlSafe(begin)).execute(&mut other);
    held.await.unwrap();
    // Keys that go to both.
    let mut producer = flow.producer("orders").await.expect("a producer");
    let both = (0..20).map(|key| flowstream::Message::new("a").with_key(format!("{key}")));
    let both: flowstream::Batch = both.collect();
    let appending = tokio::spawn(async move { producer.append(both).await.map(drop) });
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    );
    while cluster().psql(&database, &waiting).trim() == "0" {
        tokio::task::yield_now().await;
    }
    // Ours has the other one; the server gives up who notices, and that is ours.
    let crossed = sqlx::raw_sql(sqlx::AssertSqlSafe(lock(0))).execute(&mut other);
    crossed.await.expect("ours was given up");
    sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    appending.await.unwrap().expect("it goes again");
    let ends = flow.bounds("orders").await.expect("bounds");
    assert_eq!(ends.iter().map(|bounds| bounds.end).sum::<u64>(), 20);
}

/// Somebody deletes a batch in the middle: that is told, and nothing behind it is handed out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_somebody_deleted_is_not_skipped() {
    let database = cluster().database();
    let flow = flowstream::open(&cluster().url(&database)).await;
    let flow = flow.expect("it opens");
    let mut producer = flow.producer("orders").await.expect("a producer");
    for body in ["0", "1", "2"] {
        producer.send(body.into()).await.expect("it is written");
    }
    let delete = "DELETE FROM flowstream.batches WHERE base_offset = 1";
    cluster().psql(&database, delete);
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let mut heard = Vec::new();
    for _ in 0..3 {
        match consumer.next().await.expect("it was not shut down") {
            Ok(delivery) => {
                heard.push(delivery.offset().to_string());
                delivery.ack();
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Data, "{error}");
                assert!(error.to_string().contains("offset 1 "), "{error}");
                heard.push("error".to_owned());
            }
        }
    }
    assert_eq!(heard, ["0", "error", "error"]);
}
