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
use sqlx::{Connection, PgConnection};

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
        "trim_state",
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
    let ledger = cluster.psql(database, "SELECT count(*) FROM flowstream.trim_state");
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
                   WHERE schemaname = 'flowstream' AND relname IN ('batches', 'leases', 'trim_state')";
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

/// What was moved is not looked at again, also while a snapshot that is held open keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_walks_over_nothing_that_was_moved() {
    let cluster = Cluster::start_new();
    let database = cluster.database();
    fill(&cluster, &database).await;
    let url = cluster.url(&database);
    let mut pin = PgConnection::connect(&url).await.expect("a session");
    let pins = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_xact_id()";
    sqlx::raw_sql(pins).execute(&mut pin).await.expect("a pin");
    let leave = |count: u64| {
        let rows = format!(
            "INSERT INTO flowstream.outbox (batch_id, stream, partition, count, ends, bodies)
             SELECT gen_random_uuid(), 'orders', 0, 1, '\\x01000000', 'x' FROM generate_series(1, {count})"
        );
        cluster.psql(&database, &rows);
    };
    let move_since = |seen: &str| {
        let moved = format!(
            "SELECT DISTINCT is_more, coalesce(now_seen, '') FROM flowstream.move_outbox({seen}, 10000)"
        );
        let moved = cluster.psql(&database, &moved);
        let (is_more, seen) = moved.trim().split_once('|').expect("two columns");
        (is_more == "t", format!("'{seen}'"))
    };
    leave(BATCHES);
    let mut moved = move_since("NULL");
    while moved.0 {
        moved = move_since("NULL");
    }
    let read = || -> u64 {
        let sql =
            "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'flowstream'";
        cluster
            .psql(&database, sql)
            .trim()
            .parse()
            .expect("a count")
    };
    let before = read();
    for _ in 0..5 {
        leave(3);
        moved = move_since(&moved.1);
        assert!(!moved.0);
    }
    let entries = (read() - before) / 5;
    println!("index entries a move: {entries}");
    assert!(entries < 100, "a move reads {entries} index entries");

    cluster.psql(&database, "SELECT flowstream.create_stream('wide', 2000)");
    let wide = "INSERT INTO flowstream.outbox (batch_id, stream, partition, count, ends, bodies)
                SELECT gen_random_uuid(), 'wide', n, 1, '\\x01000000', 'x' FROM generate_series(0, 499) n";
    cluster.psql(&database, wide);
    let before = read();
    moved = move_since(&moved.1);
    assert!(!moved.0);
    let entries = (read() - before) / 500;
    println!("index entries a partition: {entries}");
    assert!(
        entries < 100,
        "a move reads {entries} index entries a partition"
    );

    let end = "SELECT end_offset FROM flowstream.bounds(1, 0)";
    let end: u64 = cluster.psql(&database, end).trim().parse().unwrap();
    assert_eq!(end, 2 * BATCHES + 15);
    drop(pin);
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

/// What a session reads of the schema, as rows of tables and entries of indexes, while it does this.
fn read_by(cluster: &Cluster, database: &str, sql: &str) -> u64 {
    let read = || -> u64 {
        let sql = "SELECT (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE schemaname = 'flowstream')
                       + (SELECT sum(seq_tup_read) FROM pg_stat_user_tables WHERE schemaname = 'flowstream')";
        cluster.psql(database, sql).trim().parse().expect("a count")
    };
    let before = read();
    // As the sessions of a storage.
    let settings = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;
                    SET enable_hashjoin = off; SET enable_mergejoin = off;";
    cluster.psql(database, &format!("{settings} {sql}"));
    cluster.wait_for_sessions(database);
    read() - before
}

/// Each piece of a move looked at all that waited.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_of_a_move_reads_no_more_than_it_moves() {
    let cluster = Cluster::start_new();
    let database = cluster.database();
    fill(&cluster, &database).await;
    let rows = format!(
        "INSERT INTO flowstream.outbox (batch_id, stream, partition, count, ends, bodies)
         SELECT gen_random_uuid(), 'orders', 0, 1, '\\x01000000', 'x' FROM generate_series(1, {BATCHES})"
    );
    cluster.psql(&database, &rows);
    let moves = "DO $$ DECLARE seen text; more boolean := true; BEGIN
                     WHILE more LOOP
                         SELECT m.now_seen, m.is_more INTO seen, more
                             FROM flowstream.move_outbox(seen, 1000) m;
                     END LOOP;
                 END $$";
    let entries = read_by(&cluster, &database, moves);
    let left = "SELECT count(*) FROM flowstream.outbox";
    assert_eq!(cluster.psql(&database, left).trim(), "0");
    println!("entries read by the moves of {BATCHES} rows: {entries}");
    assert!(entries < 20 * BATCHES, "{entries} entries");
}

/// For each row all partitions of the stream were walked, and all rows of the append.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_to_many_partitions_reads_as_much_for_each() {
    const PARTITIONS: u64 = 2_000;
    let cluster = Cluster::start_new();
    let database = cluster.database();
    fill(&cluster, &database).await;
    cluster.psql(
        &database,
        &format!("SELECT flowstream.create_stream('wide', {PARTITIONS})"),
    );
    let arrays = format!(
        "array_fill('wide'::text, ARRAY[{PARTITIONS}]), ARRAY(SELECT generate_series(0, {PARTITIONS} - 1))"
    );
    let begin = format!(
        "SELECT count(*) FROM flowstream.begin_append('00000000-0000-0000-0000-000000000007', NULL, {arrays}, "
    );
    let (none, lease) = (
        "'{}', '{}', '{}', '{}', '{}', '{}')",
        format!(
            "array_fill('wide'::text, ARRAY[{PARTITIONS}]), ARRAY(SELECT generate_series(0, {PARTITIONS} - 1)),
             array_fill('g'::text, ARRAY[{PARTITIONS}]),
             array_fill('00000000-0000-0000-0000-000000000001'::uuid, ARRAY[{PARTITIONS}]),
             array_fill(1::bigint, ARRAY[{PARTITIONS}]), array_fill('{{[0,1)}}'::text, ARRAY[{PARTITIONS}]))"
        ),
    );
    let settle = |id: u32| {
        format!(
            "SELECT count(*) FROM flowstream.settle('00000000-0000-0000-0000-{id:012}', {arrays})"
        )
    };
    let groups = "SELECT count(flowstream.create_group('wide', p::int, 'g', 'earliest', 0, now())) FROM
                  generate_series(0, 1999) p; UPDATE flowstream.leases SET epoch = 1,
                  owner = '00000000-0000-0000-0000-000000000001', incarnation = flowstream.incarnation()";
    cluster.psql(&database, groups);
    let rows = "INSERT INTO flowstream.batches
                SELECT stream_id, partition, 0, 1, now(), '00000000-0000-0000-0000-000000000007',
                    '\\x01000000', 'x' FROM flowstream.partitions
                    JOIN flowstream.streams s USING (stream_id) WHERE s.name = 'wide'";
    let measured = [
        (
            "begin",
            read_by(&cluster, &database, &format!("{begin}{none}")),
        ),
        (
            "commits",
            read_by(&cluster, &database, &format!("{begin}{lease}")),
        ),
        ("settle, refused", read_by(&cluster, &database, &settle(6))),
        ("known", {
            cluster.psql(&database, rows);
            read_by(&cluster, &database, &format!("{begin}{none}"))
        }),
        ("settle, known", read_by(&cluster, &database, &settle(7))),
    ];
    println!("entries read of {PARTITIONS} partitions: {measured:?}");
    for (call, entries) in measured {
        assert!(entries < 50 * PARTITIONS, "{call} reads {entries} entries");
    }
}
