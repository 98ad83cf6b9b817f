//! What may be much is done in pieces: no statement does more than a thousand rows and 16 MiB, one that
//! was cancelled is tried with half, and what was done stays.

#![cfg(feature = "postgres")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::postgres::{self, DeliveryExt, sqlx};
use flowstream::storage::{
    Group, Name, Partition, PostgresOptions, PostgresStorage, Read, Storage,
};
use flowstream::{Message, Options};
use postgres_support::{Cluster, copies_of_long_ago};
use sqlx::PgPool;

mod postgres_support;

const MOST_ROWS: u64 = 1_000;
const MOST_BYTES: u64 = 16 << 20;

fn partition(index: u32) -> Partition {
    Partition {
        stream: Name::new("orders").unwrap(),
        index,
    }
}

async fn open(cluster: &Cluster, database: &str) -> Arc<PostgresStorage> {
    let options = PostgresOptions::new().listen(false);
    let storage = PostgresStorage::connect(&cluster.url(database), options).await;
    Arc::new(storage.expect("it opens"))
}

/// A database with a stream of so many partitions, in which nobody does anything.
async fn prepare(cluster: &Cluster, partitions: u32) -> String {
    let database = cluster.database();
    let storage = open(cluster, &database).await;
    let stream = Name::new("orders").unwrap();
    let created = storage.create_stream(&stream, Some(partitions)).await;
    created.expect("a stream");
    storage.close().await.expect("closed");
    database
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within ten minutes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// From now on each statement that writes to these tables is noted: its rows, and the bytes of their
/// bodies. One with more than so many rows is cancelled, as by `statement_timeout`.
fn note_statements(cluster: &Cluster, database: &str, most_rows: u64) {
    let triggers = ["batches", "outbox"].map(|table| {
        format!(
            "CREATE TRIGGER noted_delete AFTER DELETE ON flowstream.{table}
                 REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION public.note();
             CREATE TRIGGER noted_update AFTER UPDATE ON flowstream.{table}
                 REFERENCING OLD TABLE AS touched FOR EACH STATEMENT EXECUTE FUNCTION public.note();"
        )
    });
    cluster.psql(
        database,
        &format!(
            "CREATE TABLE public.noted (pid int, statement timestamptz, what text, rows bigint, bytes bigint);
             CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                 n bigint;
                 size bigint;
             BEGIN
                 SELECT count(*), coalesce(sum(octet_length(bodies)), 0) INTO n, size FROM touched;
                 IF n > {most_rows} THEN
                     RAISE EXCEPTION 'canceling statement due to statement timeout'
                         USING ERRCODE = '57014';
                 END IF;
                 INSERT INTO public.noted VALUES (
                     pg_backend_pid(), statement_timestamp(), TG_TABLE_NAME || ' ' || TG_OP, n, size);
                 RETURN NULL;
             END $$;
             {} {}",
            triggers[0], triggers[1]
        ),
    );
}

/// The most that one statement did: rows, and bytes.
fn most(cluster: &Cluster, database: &str) -> (u64, u64) {
    let sql = "SELECT coalesce(max(rows), 0) || ' ' || coalesce(max(bytes), 0) FROM (
                   SELECT sum(rows) AS rows, sum(bytes) AS bytes FROM public.noted
                   WHERE what <> 'outbox UPDATE' GROUP BY pid, statement
               ) s";
    let most = cluster.psql(database, sql);
    let (rows, bytes) = most.trim().split_once(' ').expect("two numbers");
    (rows.parse().expect("rows"), bytes.parse().expect("bytes"))
}

fn number(cluster: &Cluster, database: &str, sql: &str) -> u64 {
    cluster
        .psql(database, sql)
        .trim()
        .parse()
        .expect("a number")
}

/// How many calls are in the outbox.
fn left(cluster: &Cluster, database: &str) -> u64 {
    number(cluster, database, "SELECT count(*) FROM flowstream.outbox")
}

async fn all_is_moved(cluster: &Cluster, database: &str) {
    eventually(async || left(cluster, database) == 0).await;
}

/// So many calls of one transaction, with a message of so many bytes each.
fn leave(cluster: &Cluster, database: &str, calls: u64, bytes: u64) {
    let sql = format!(
        "INSERT INTO flowstream.outbox (batch_id, stream, partition, count, ends, bodies)
         SELECT gen_random_uuid(), 'orders', 0, 1, decode(lpad(to_hex({bytes}), 8, '0'), 'hex'),
             decode(repeat('00', {bytes}), 'hex') FROM generate_series(1, {calls})"
    );
    cluster.psql(database, &sql);
}

/// A log of so many batches of so many bytes each, all of them so long ago that they may be deleted, but
/// for the newest.
fn fill(cluster: &Cluster, database: &str, batches: u64, bytes: u64, fresh: u64) {
    let sql = format!(
        "INSERT INTO flowstream.batches SELECT stream_id, 0, n, 1,
             clock_timestamp() - CASE WHEN n < {} THEN interval '2 hours' ELSE '0' END,
             gen_random_uuid(), '\\x01000000', decode(repeat('00', {bytes}), 'hex')
         FROM flowstream.streams, generate_series(0, {batches} - 1) n",
        batches - fresh
    );
    cluster.psql(database, &sql);
}

/// A move took up to 10,000 rows, and the whole call that was begun then; a trim emptied and deleted a
/// thousand batches of whatever size in one statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_does_more_than_a_piece() {
    let cluster = Cluster::start_new();
    for (count, bytes) in [(3_500, 10), (40, 1 << 20)] {
        let database = prepare(&cluster, 1).await;
        note_statements(&cluster, &database, u64::MAX >> 1);
        leave(&cluster, &database, count, bytes);
        let storage = open(&cluster, &database).await;
        all_is_moved(&cluster, &database).await;
        let (rows, size) = most(&cluster, &database);
        assert!(rows > 0, "it is noted");
        assert!(rows <= MOST_ROWS, "a move of {rows} rows");
        assert!(size <= MOST_BYTES, "a move of {size} bytes");
        storage.close().await.expect("closed");

        for fresh in [count, 10] {
            let database = prepare(&cluster, 1).await;
            fill(&cluster, &database, count, bytes, fresh);
            note_statements(&cluster, &database, u64::MAX >> 1);
            let storage = open(&cluster, &database).await;
            let start = storage.trim(&partition(0), count - 5).await;
            assert_eq!(start.expect("a trim"), count - 5);
            let (rows, size) = most(&cluster, &database);
            assert!(rows > 0, "it is noted");
            assert!(rows <= MOST_ROWS, "a sweep of {rows} rows");
            assert!(size <= MOST_BYTES, "a sweep of {size} bytes");
            let full = "SELECT count(*) FROM flowstream.batches WHERE ends IS NOT NULL";
            assert_eq!(number(&cluster, &database, full), 5);
            storage.close().await.expect("closed");
        }
    }
}

/// Every try was as large as the one before, and cancelled as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_was_cancelled_is_tried_with_half() {
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1).await;
    note_statements(&cluster, &database, 100);
    leave(&cluster, &database, 1_500, 10);
    let storage = open(&cluster, &database).await;
    all_is_moved(&cluster, &database).await;
    let bounds = storage.bounds(&[partition(0)]).await.expect("bounds");
    assert_eq!(bounds.len(), 1);
    assert_eq!(bounds[0], 0..1_500);
    assert!(most(&cluster, &database).0 <= 100);
    storage.close().await.expect("closed");

    let database = prepare(&cluster, 1).await;
    fill(&cluster, &database, 3_000, 10, 200);
    note_statements(&cluster, &database, 100);
    let storage = open(&cluster, &database).await;
    let start = storage.trim(&partition(0), 2_950).await.expect("a trim");
    assert_eq!(start, 2_950);
    let full = "SELECT count(*) FROM flowstream.batches WHERE ends IS NOT NULL";
    assert_eq!(number(&cluster, &database, full), 50);
    // Old, and not among the last thousand.
    let gone = "SELECT min(base_offset) FROM flowstream.batches";
    assert_eq!(number(&cluster, &database, gone), 3_000 - 1_025);
    storage.close().await.expect("closed");
}

/// Each was emptied and deleted in one call, which wrote eight times as much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_of_old_batches_writes_little_more_than_their_delete() {
    let settings = [("autovacuum", "off"), ("checkpoint_timeout", "1h")];
    let cluster = Cluster::start_with(&settings);
    let written = async |work: &dyn Fn(String) -> futures::future::BoxFuture<'static, ()>| {
        let database = prepare(&cluster, 1).await;
        fill(&cluster, &database, 20_000, 500, 0);
        let lsn = || cluster.psql(&database, "SELECT pg_current_wal_insert_lsn()");
        let before = lsn();
        work(database.clone()).await;
        let sql = format!("SELECT pg_current_wal_insert_lsn() - '{}'", before.trim());
        number(&cluster, &database, &sql)
    };
    let url = |database: &str| cluster.url(database);
    let bare = written(&|database| {
        let sql = "DELETE FROM flowstream.batches WHERE base_offset < 18000";
        cluster.psql(&database, sql);
        Box::pin(async {})
    })
    .await;
    let trimmed = written(&|database| {
        let url = url(&database);
        Box::pin(async move {
            let options = PostgresOptions::new().listen(false);
            let storage = PostgresStorage::connect(&url, options).await;
            let storage = storage.expect("it opens");
            let start = storage.trim(&partition(0), 18_000).await;
            assert_eq!(start.expect("a trim"), 18_000);
            storage.close().await.expect("closed");
        })
    })
    .await;
    println!("bytes of WAL: a trim {trimmed}, a delete {bare}");
    assert!(trimmed <= 2 * bare, "{trimmed} bytes, and {bare} by hand");
}

/// Those rows were all that the next look saw, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_to_a_stream_that_is_gone_keeps_nothing_from_moving() {
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1).await;
    let gone = "INSERT INTO flowstream.outbox (batch_id, stream, partition, count, ends, bodies)
                SELECT gen_random_uuid(), 'gone', 0, 1, '\\x01000000', 'x' FROM generate_series(1, 10500)";
    cluster.psql(&database, gone);
    leave(&cluster, &database, 1, 1);
    let storage = open(&cluster, &database).await;
    eventually(async || {
        let bounds = storage.bounds(&[partition(0)]).await;
        bounds.expect("bounds")[0].end == 1
    })
    .await;
    assert_eq!(left(&cluster, &database), 10_500);
    storage.close().await.expect("closed");
}

/// After an upgrade by logical replication the numbers begin anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_finds_lower_numbers_than_it_has_seen() {
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1).await;
    let mut seen = "NULL".to_owned();
    for round in 0..4 {
        leave(&cluster, &database, 20, 1);
        loop {
            let sql = format!(
                "SELECT DISTINCT is_more, coalesce(now_seen, '') FROM flowstream.move_outbox({seen}, 7)"
            );
            let moved = cluster.psql(&database, &sql);
            let (is_more, now_seen) = moved.trim().split_once('|').expect("two columns");
            seen = format!("'{now_seen}'");
            if is_more == "f" {
                break;
            }
        }
        assert_eq!(left(&cluster, &database), 0, "round {round}");
        let behind = "ALTER TABLE flowstream.outbox ALTER COLUMN id RESTART WITH 3";
        cluster.psql(&database, behind);
    }
}

/// One look is at what one snapshot shows: what commits between its pieces comes with the next, and so
/// before whatever is appended after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_commits_between_two_pieces_overtakes_nothing() {
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1).await;
    let pool = PgPool::connect(&cluster.url(&database))
        .await
        .expect("a pool");
    let call = |body: &str| {
        format!(
            "INSERT INTO flowstream.outbox (batch_id, stream, partition, count, ends, bodies)
             VALUES (gen_random_uuid(), 'orders', 0, 1, '\\x01000000', '{body}')"
        )
    };
    let mut late = pool.begin().await.expect("a transaction");
    let appends = sqlx::raw_sql(sqlx::AssertSqlSafe(call("a"))).execute(&mut *late);
    appends.await.expect("it is left");
    for body in ["b", "c"] {
        cluster.psql(&database, &call(body));
    }
    let mut seen = "NULL".to_owned();
    let mut move_one = || {
        let sql = format!("SELECT is_more, now_seen FROM flowstream.move_outbox({seen}, 1)");
        let moved = cluster.psql(&database, &sql);
        let (is_more, now_seen) = moved.trim().split_once('|').expect("two columns");
        seen = format!("'{now_seen}'");
        is_more == "t"
    };
    assert!(move_one());
    late.commit().await.expect("committed");
    cluster.psql(&database, &call("d"));
    while move_one() {}
    while move_one() {}
    let log = "SELECT string_agg(encode(bodies, 'escape'), '' ORDER BY base_offset)
               FROM flowstream.batches";
    assert_eq!(cluster.psql(&database, log).trim(), "bcad");
}

/// All were looked for in one statement, each with all that the group had done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_that_one_transaction_commits_are_all_done() {
    const MESSAGES: u64 = 2_300;
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1).await;
    let url = cluster.url(&database);
    let pool = PgPool::connect(&url).await.expect("a pool");
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let batch: Vec<Message> = (0..MESSAGES).map(|n| Message::new(n.to_string())).collect();
    orders.append(batch).await.expect("appended");
    let mut consumer = flow.consumer("orders", "billing").await.expect("one");
    let mut tx = pool.begin().await.expect("a transaction");
    for offset in 0..MESSAGES {
        let delivery = consumer.try_next().await.expect("no error");
        let delivery = delivery.expect("a delivery");
        assert_eq!(delivery.offset(), offset);
        delivery.commit_in(&mut tx).await.expect("it stands");
    }
    postgres::commit(tx).await.expect("committed");
    eventually(async || {
        let group = flow.group("orders", "billing").await.expect("the group");
        group[0].position() == MESSAGES
    })
    .await;
    consumer.control().shutdown().await;
    // The ledger has them, too.
    let position = "SELECT position FROM flowstream.positions ORDER BY generation DESC LIMIT 1";
    assert_eq!(number(&cluster, &database, position), MESSAGES);
    flow.close().await.expect("closed");
}

/// More than one statement asks for; in the order that was asked, and in that of their names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_groups_and_partitions_are_asked_for_in_slices() {
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1_300).await;
    let storage = open(&cluster, &database).await;
    for stream in ["more", "other"] {
        let stream = Name::new(stream).unwrap();
        storage.create_stream(&stream, Some(2)).await.expect("made");
    }
    cluster.psql(
        &database,
        "INSERT INTO flowstream.leases (stream_id, partition, name)
             SELECT p.stream_id, p.partition, g FROM flowstream.partitions p, (VALUES ('a'), ('b')) g (g);
         INSERT INTO flowstream.positions (group_id, generation, position)
             SELECT group_id, 0, partition FROM flowstream.leases;
         INSERT INTO flowstream.batches
             SELECT stream_id, partition, 0, partition + 1, clock_timestamp(), gen_random_uuid(),
                 decode(repeat('00000000', partition + 1), 'hex'), ''
             FROM flowstream.partitions",
    );
    let orders = Name::new("orders").unwrap();
    let group = |stream: &str, index: u32, name: &str| Group {
        partition: Partition {
            stream: Name::new(stream).unwrap(),
            index,
        },
        name: Name::new(name).unwrap(),
    };
    let of = |stream: &'static str, partitions: u32| {
        let each = (0..partitions).flat_map(|index| ["a", "b"].map(|name| (index, name)));
        each.map(move |(index, name)| group(stream, index, name))
    };
    let expected: Vec<Group> = of("more", 2)
        .chain(of("orders", 1_300))
        .chain(of("other", 2))
        .collect();
    let groups = storage.groups(None).await.expect("the groups");
    assert!(groups == expected, "{} groups", groups.len());
    let groups = storage.groups(Some(&orders)).await.expect("the groups");
    assert!(groups == Vec::from_iter(of("orders", 1_300)));
    let nope = Name::new("nope").unwrap();
    assert_eq!(storage.groups(Some(&nope)).await.expect("none"), []);

    let mut asked: Vec<Group> = groups.into_iter().rev().collect();
    asked.insert(1_100, group("orders", 5, "nobody"));
    let states = storage.observe(&asked).await.expect("the states");
    for (group, state) in asked.iter().zip(states) {
        let position = state.map(|state| state.position());
        let expected =
            (group.name.as_str() != "nobody").then_some(u64::from(group.partition.index));
        assert_eq!(position, expected, "{group}");
    }
    let partitions: Vec<Partition> = (0..1_300).rev().map(partition).collect();
    let bounds = storage.bounds(&partitions).await.expect("the bounds");
    for (partition, bounds) in partitions.iter().zip(bounds) {
        assert_eq!(bounds, 0..u64::from(partition.index) + 1);
    }
    storage.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_gives_a_thousand_batches_at_most() {
    let cluster = Cluster::start_new();
    let database = prepare(&cluster, 1).await;
    let storage = open(&cluster, &database).await;
    let flow = Options::new().open_storage(storage.clone());
    let mut orders = flow.producer("orders").await.expect("a producer");
    orders.append(Message::new("x")).await.expect("appended");
    cluster.psql(&database, &copies_of_long_ago(2_499));
    let read = |from| Read {
        partition: partition(0),
        from,
        max_bytes: usize::MAX,
        group: None,
    };
    let mut next = 0;
    for count in [1_000, 1_000, 500] {
        let fetched = storage.read(read(next)).await.expect("a read");
        assert_eq!(fetched.batches.len(), count);
        next = fetched.batches[count - 1].offsets().end;
    }
    flow.close().await.expect("closed");
}
