//! What a statement looks at does not grow with the log: plans are by index, whatever the statistics
//! of the server say. A table that was never analyzed is the hard case.

#![cfg(feature = "postgres")]

use std::sync::Arc;

use flowstream::Message;
use flowstream::storage::{
    Append, Claim, Group, Id, Lease, Name, Partition, PostgresOptions, PostgresStorage, Ranges,
    Read, RecordsBuilder, Row, Start, Storage,
};
use postgres_support::Cluster;

mod postgres_support;

const BATCHES: u64 = 20_000;

fn partition() -> Partition {
    Partition {
        stream: Name::new("orders").unwrap(),
        index: 0,
    }
}

async fn open(url: &str) -> PostgresStorage {
    let options = PostgresOptions::new().listen(false);
    let storage = PostgresStorage::connect(url, options).await;
    storage.expect("the storage opens")
}

/// A log of so many batches, and as many groups as fit into the patience of a reader.
async fn fill(cluster: &Cluster, database: &str) {
    let storage = open(&cluster.url(database)).await;
    let stream = Name::new("orders").unwrap();
    storage.create_stream(&stream, Some(1)).await.unwrap();
    storage.close().await.unwrap();
    for table in [
        "batches",
        "leases",
        "positions",
        "acks",
        "partitions",
        "floors",
    ] {
        let sql = format!("ALTER TABLE flowstream.{table} SET (autovacuum_enabled = false)");
        cluster.psql(database, &sql);
    }
    cluster.psql(
        database,
        &format!(
            "INSERT INTO flowstream.batches SELECT stream_id, 0, n, 1, \
             clock_timestamp() - interval '2 hours', gen_random_uuid(), '\\x01000000', 'x' \
             FROM flowstream.streams, generate_series(0, {}) n",
            BATCHES - 1
        ),
    );
}

/// Trims one message after the other, as a long life does: what trimming left is a ledger, too.
fn trim_often(cluster: &Cluster, database: &str) {
    let sql = "SELECT count(flowstream.trim('orders', 0, n)), \
               count(flowstream.sweep('orders', 0, 1000)) FROM generate_series(1, 500) n";
    assert_eq!(cluster.psql(database, sql).trim(), "500|500");
    let ledger = cluster.psql(database, "SELECT count(*) FROM flowstream.floors");
    assert_eq!(ledger.trim(), "1000");
}

/// The index entries of the log that these calls read, each call made five times.
async fn entries<F: Future<Output = ()>>(
    cluster: &Cluster,
    database: &str,
    call: impl Fn(Arc<PostgresStorage>) -> F,
) -> u64 {
    let read = || -> u64 {
        let sql = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes \
                   WHERE schemaname = 'flowstream' AND relname IN ('batches', 'leases', 'floors')";
        cluster.psql(database, sql).trim().parse().expect("a count")
    };
    let before = read();
    let storage = Arc::new(open(&cluster.url(database)).await);
    for _ in 0..5 {
        call(storage.clone()).await;
    }
    // A session tells what it counted when it ends, at the latest.
    storage.close().await.expect("it closes");
    cluster.wait_for_sessions(database);
    (read() - before) / 5
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_walks_the_log() {
    let cluster = Cluster::start_new();
    let database = cluster.database();
    fill(&cluster, &database).await;
    let group = Group {
        partition: partition(),
        name: Name::new("billing").unwrap(),
    };
    let lease = |owner, epoch| Lease {
        group: group.clone(),
        owner,
        epoch,
    };
    let row = || {
        let messages = [Message::new("y")];
        let records: RecordsBuilder = messages.iter().collect();
        Row {
            partition: partition(),
            records: records.build().expect("a message"),
        }
    };
    let append = |storage: Arc<PostgresStorage>, id, commits| {
        let append = Append {
            id,
            after: None,
            rows: vec![row()],
            commits,
        };
        async move { storage.append(Arc::new(append)).await.expect("an answer") }
    };
    let measured = [
        ("append", {
            entries(&cluster, &database, |storage| async {
                append(storage, Id::random(), vec![]).await;
            })
            .await
        }),
        ("settle", {
            entries(&cluster, &database, |storage| async move {
                let settled = storage.settle(Id::random(), &[partition()]).await;
                assert_eq!(settled.expect("an answer"), None);
            })
            .await
        }),
        ("read", {
            entries(&cluster, &database, |storage| async move {
                let read = Read {
                    partition: partition(),
                    from: BATCHES / 2,
                    max_bytes: 100,
                    group: None,
                };
                let fetched = storage.read(read).await.expect("an answer");
                assert!(fetched.batches[0].offsets().contains(&(BATCHES / 2)));
            })
            .await
        }),
        ("bounds", {
            entries(&cluster, &database, |storage| async move {
                storage.bounds(&[partition()]).await.expect("an answer");
            })
            .await
        }),
        ("a lease", {
            entries(&cluster, &database, |storage| async {
                let storage = storage;
                storage
                    .create_group(&group, Start::Offset(BATCHES / 2))
                    .await
                    .expect("a group");
                let claim = Claim {
                    group: group.clone(),
                    owner: Id::random(),
                    over: None,
                };
                let state = storage.claim(claim.clone()).await.expect("an answer");
                let lease = lease(claim.owner, state.epoch);
                let done = Ranges::from(0..1);
                let id = Id::random();
                append(storage.clone(), id, vec![(lease.clone(), done)]).await;
                let done = Ranges::from(1..2).into();
                storage.commit(&lease, &done).await.expect("a commit");
                storage.release(&lease).await.expect("a release");
                let groups = [group.clone()];
                storage.observe(&groups).await.expect("an answer");
            })
            .await
        }),
        ("trim", {
            trim_often(&cluster, &database);
            entries(&cluster, &database, |storage| async move {
                let bounds = storage.bounds(&[partition()]).await.expect("bounds");
                let trimmed = storage.trim(&partition(), bounds[0].start + 1).await;
                assert_eq!(trimmed.expect("an answer"), bounds[0].start + 1);
            })
            .await
        }),
    ];
    println!("index entries a call: {measured:?}");
    for (call, entries) in measured {
        assert!(entries < 500, "{call} reads {entries} index entries");
    }
}
