//! Appending in a transaction of the application.

#![cfg(feature = "postgres")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use flowstream::postgres::{self, DeliveryExt, ProducerExt, sqlx};
use flowstream::storage::{Id, PostgresOptions, PostgresStorage};
use flowstream::{Error, ErrorKind, Flowstream, Message, Options, Producer};
use postgres_support::proxy::{Network, Proxy};
use postgres_support::{Bouncer, Cluster};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Acquire, Connection, PgConnection, PgPool};

mod postgres_support;

const LEVELS: [&str; 3] = ["read committed", "repeatable read", "serializable"];

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start_with(&[("max_connections", "200")]))
}

/// A pool of the application, whose transactions have this level.
fn pool(url: &str, level: &str) -> PgPool {
    let server: PgConnectOptions = url.parse().unwrap();
    PgPoolOptions::new()
        .max_connections(20)
        .acquire_timeout(Duration::from_secs(600))
        .connect_lazy_with(server.options([("default_transaction_isolation", level)]))
}

/// All bodies of a partition, once there are so many.
async fn bodies(flow: &Flowstream, stream: &str, partition: u32, count: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    eventually(async || {
        let read = flow.read(stream, partition, bodies.len() as u64).await;
        for (offset, message) in read.expect("a page") {
            assert_eq!(offset, bodies.len() as u64, "no gap");
            bodies.push(String::from_utf8(message.body().to_vec()).unwrap());
        }
        bodies.len() >= count
    })
    .await;
    bodies
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(600);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within ten minutes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn outbox_rows(database: &str) -> String {
    let count = cluster().psql(database, "SELECT count(*) FROM flowstream.outbox");
    count.trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_appends_is_in_the_log_after_its_commit() {
    for level in LEVELS {
        let database = cluster().database();
        let url = cluster().url(&database);
        let pool = pool(&url, level);
        sqlx::query("CREATE TABLE orders (id int)")
            .execute(&pool)
            .await
            .unwrap();
        let flow = flowstream::open(&url).await.expect("it opens");
        flow.create_stream("by key", 4).await.expect("a stream");
        let mut orders = flow.producer("orders").await.expect("a producer");

        let mut tx = pool.begin().await.unwrap();
        sqlx::query("INSERT INTO orders VALUES (1)")
            .execute(&mut *tx)
            .await
            .unwrap();
        let batch = ["a", "b"].map(Message::new);
        orders.append_in(&mut tx, batch).await.expect("appended");
        let keyed = (0..20).map(|n| {
            let message = Message::new(format!("{n}")).with_key(format!("{}", n % 7));
            message.with_stream("by key").unwrap()
        });
        let keyed: Vec<Message> = keyed.chain([Message::new("c")]).collect();
        orders.append_in(&mut tx, keyed).await.expect("appended");
        let bounds = flow.bounds("orders").await.unwrap();
        assert_eq!(bounds[0].end, 0, "not before the commit");
        postgres::commit(tx).await.expect("committed");

        assert_eq!(bodies(&flow, "orders", 0, 3).await, ["a", "b", "c"]);
        // With the others, in the same move.
        let mut places: BTreeMap<String, u32> = BTreeMap::new();
        for partition in 0..4 {
            for (_, message) in flow.read("by key", partition, 0).await.unwrap() {
                let key = String::from_utf8(message.key().unwrap().to_vec()).unwrap();
                assert_eq!(*places.entry(key).or_insert(partition), partition);
            }
        }
        assert_eq!(places.len(), 7);
        // Where append puts them.
        let mut by_key = flow.producer("by key").await.expect("a producer");
        for (key, partition) in places {
            let message = Message::new("again").with_key(key);
            let appended = by_key.append(message).await.expect("appended");
            assert_eq!(appended.offsets()[0].partition, partition);
        }
        let orders_there = sqlx::query("SELECT * FROM orders").fetch_all(&pool).await;
        assert_eq!(orders_there.unwrap().len(), 1);
        assert_eq!(outbox_rows(&database), "0");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_gets_it_and_a_plain_commit_is_found() {
    let url = cluster().url(&cluster().database());
    let pool = pool(&url, "read committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    for n in 0..5 {
        let mut tx = pool.begin().await.unwrap();
        let body = format!("{n}");
        orders
            .append_in(&mut tx, Message::new(body.clone()))
            .await
            .expect("appended");
        tx.commit().await.unwrap();
        let delivery = consumer.try_next().await.unwrap().expect("a delivery");
        assert_eq!((delivery.offset(), delivery.body()), (n, &body.into()));
        delivery.commit().await.expect("committed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolled_back_it_leaves_no_trace_and_no_gap() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, "read committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    orders.append(Message::new("0")).await.expect("appended");
    for n in 1..6 {
        let mut tx = pool.begin().await.unwrap();
        orders
            .append_in(&mut tx, Message::new("never"))
            .await
            .expect("appended");
        tx.rollback().await.unwrap();

        let mut tx = pool.begin().await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        let taken_back = orders.append_in(&mut savepoint, Message::new("taken back"));
        taken_back.await.expect("appended");
        savepoint.rollback().await.unwrap();
        let mut savepoint = tx.begin().await.unwrap();
        let kept = orders.append_in(&mut savepoint, Message::new(format!("{n}")));
        kept.await.expect("appended");
        postgres::commit(savepoint).await.expect("released");
        postgres::commit(tx).await.expect("committed");
    }
    assert_eq!(
        bodies(&flow, "orders", 0, 6).await,
        ["0", "1", "2", "3", "4", "5"]
    );
    assert_eq!(outbox_rows(&database), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_opens_the_storage_next_finds_it() {
    let url = cluster().url(&cluster().database());
    let pool = pool(&url, "read committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut tx = pool.begin().await.unwrap();
    orders
        .append_in(&mut tx, Message::new("late"))
        .await
        .expect("appended");
    flow.close().await.expect("closed");
    tx.commit().await.unwrap();
    let flow = flowstream::open(&url).await.expect("it opens");
    assert_eq!(bodies(&flow, "orders", 0, 1).await, ["late"]);
}

/// Nobody opens anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_polls_finds_what_a_process_left_that_is_gone() {
    let url = cluster().url(&cluster().database());
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut consumer = flow.consumer("orders", "billing").await.expect("one");
    let mut session = PgConnection::connect(&url).await.expect("a session");
    for body in ["one", "other"] {
        leave(&mut session, body, &[0]).await;
        let delivery = tokio::time::timeout(Duration::from_secs(60), consumer.try_next());
        let delivery = delivery.await.expect("within a minute").expect("no error");
        let delivery = delivery.expect("a delivery");
        assert_eq!(delivery.body(), body.as_bytes());
        delivery.commit().await.expect("committed");
    }
}

/// What was committed with `postgres::commit` is in the log before the storage is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_waits_for_the_move() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, "read committed");
    for n in 1..20 {
        let flow = flowstream::open(&url).await.expect("it opens");
        let mut orders = flow.producer("orders").await.expect("a producer");
        let mut tx = pool.begin().await.unwrap();
        orders
            .append_in(&mut tx, Message::new("a"))
            .await
            .expect("appended");
        postgres::commit(tx).await.expect("committed");
        flow.close().await.expect("closed");
        let end = cluster().psql(
            &database,
            "SELECT max(base_offset) + 1 FROM flowstream.batches",
        );
        assert_eq!(end.trim(), format!("{n}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_transaction_holds_nobody_up() {
    for level in LEVELS {
        let url = cluster().url(&cluster().database());
        let pool = pool(&url, level);
        let flow = flowstream::open(&url).await.expect("it opens");
        let mut orders = flow.producer("orders").await.expect("a producer");
        let mut long = pool.begin().await.unwrap();
        orders
            .append_in(&mut long, Message::new("long"))
            .await
            .expect("appended");
        // The same partition, while it is open.
        orders
            .append(Message::new("direct"))
            .await
            .expect("appended");
        let mut short = pool.begin().await.unwrap();
        orders
            .append_in(&mut short, Message::new("short"))
            .await
            .expect("appended");
        postgres::commit(short).await.expect("committed");
        assert_eq!(bodies(&flow, "orders", 0, 2).await, ["direct", "short"]);
        // Begun before what was moved last.
        orders
            .append_in(&mut long, Message::new("longer"))
            .await
            .expect("appended");
        long.commit().await.unwrap();
        let all = bodies(&flow, "orders", 0, 4).await;
        assert_eq!(all, ["direct", "short", "long", "longer"]);
    }
}

/// Processes that move at once, direct appends to the same partitions, rollbacks; and every
/// transaction is there as a whole, in its order, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_and_movers() {
    const CLIENTS: usize = 16;
    const TRANSACTIONS: usize = 40;
    const PARTITIONS: u32 = 3;
    for level in LEVELS {
        let database = cluster().database();
        let url = cluster().url(&database);
        let pool = pool(&url, level);
        let mut flows = Vec::new();
        for _ in 0..3 {
            // Each with sessions of that level as well.
            let storage =
                PostgresStorage::from_pool(self::pool(&url, level), PostgresOptions::new());
            let storage = storage.await.expect("it opens");
            flows.push(Options::new().open_storage(Arc::new(storage)));
        }
        flows[0]
            .create_stream("orders", PARTITIONS)
            .await
            .expect("a stream");
        let clients = (0..CLIENTS).map(|client| {
            let (pool, flow) = (pool.clone(), flows[client % flows.len()].clone());
            tokio::spawn(async move {
                let mut orders = flow.producer("orders").await.expect("a producer");
                let mut committed = Vec::new();
                for n in 0..TRANSACTIONS {
                    let calls = 1 + (client + n) % 4;
                    // Serializable ones collide, and are begun again.
                    while let Err(error) = transact(&pool, &mut orders, client, n, calls).await {
                        assert!(error.is_transient() && !error.in_doubt(), "{error:?}");
                    }
                    if ![0, 2].contains(&(n % 5)) {
                        committed.push((client, n, calls));
                    }
                }
                committed
            })
        });
        let clients: Vec<_> = clients.collect();
        let mut expected: Vec<(usize, usize, usize)> = Vec::new();
        for client in clients {
            expected.extend(client.await.expect("a client"));
        }
        let directly = CLIENTS * TRANSACTIONS / 5;
        let count = directly + 3 * expected.iter().map(|(_, _, calls)| calls).sum::<usize>();
        let mut found: HashMap<String, usize> = HashMap::new();
        eventually(async || {
            let bounds = flows[0].bounds("orders").await.expect("bounds");
            bounds.iter().map(|bounds| bounds.end).sum::<u64>() >= count as u64
        })
        .await;
        assert_eq!(outbox_rows(&database), "0");
        for partition in 0..PARTITIONS {
            // Of each client, in the order of its transactions, calls and messages.
            let mut last: HashMap<usize, (usize, usize, usize)> = HashMap::new();
            let end = flows[0].bounds("orders").await.unwrap()[partition as usize].end;
            for body in bodies(&flows[0], "orders", partition, end as usize).await {
                *found.entry(body.clone()).or_default() += 1;
                let numbers: Vec<usize> = body.split(' ').filter_map(|n| n.parse().ok()).collect();
                if let [client, n, call, m] = numbers[..] {
                    let before = last.insert(client, (n, call, m));
                    assert!(before < Some((n, call, m)), "{level}: {before:?} {body}");
                }
            }
        }
        assert_eq!(found.remove("direct"), Some(directly));
        for (client, n, calls) in expected {
            for (call, m) in (0..calls).flat_map(|call| (0..3).map(move |m| (call, m))) {
                let body = format!("{client} {n} {call} {m}");
                assert_eq!(found.remove(&body), Some(1), "{level}: {body}");
            }
        }
        assert_eq!(found, HashMap::new(), "{level}: rolled back");
        for flow in flows {
            flow.close().await.expect("closed");
        }
    }
}

/// Whoever waited for a lock of the application appends behind whom it waited for, whichever of them
/// began to write first, and whichever process moves it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_keep_the_order_of_the_locks() {
    const WRITERS: usize = 8;
    const EACH: usize = 250;
    let url = cluster().url(&cluster().database());
    let pool = pool(&url, "read committed");
    let made = "CREATE TABLE seen (xid xid8 DEFAULT pg_current_xact_id());
                CREATE TABLE counter (n bigint); INSERT INTO counter VALUES (0)";
    sqlx::raw_sql(made).execute(&pool).await.expect("tables");
    let mut flows = Vec::new();
    for _ in 0..2 {
        flows.push(flowstream::open(&url).await.expect("it opens"));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let producer = flows[writer % flows.len()].producer("orders").await;
        writers.push(tokio::spawn(write_in_turns(
            pool.clone(),
            producer.expect("a producer"),
            EACH,
        )));
    }
    for writer in writers {
        writer.await.expect("a writer");
    }
    let bodies = bodies(&flows[0], "orders", 0, WRITERS * EACH).await;
    let numbers: Vec<usize> = bodies.iter().map(|body| body.parse().unwrap()).collect();
    let inversions = numbers.array_windows().filter(|[one, next]| one > next);
    assert_eq!(inversions.count(), 0);
    assert_eq!(numbers, Vec::from_iter(1..=WRITERS * EACH));
}

/// Each transaction writes at its beginning, and appends the number that it got under a lock.
async fn write_in_turns(pool: PgPool, mut orders: Producer, count: usize) {
    for n in 0..count {
        let mut tx = pool.begin().await.unwrap();
        let writes = sqlx::query("INSERT INTO seen DEFAULT VALUES").execute(&mut *tx);
        writes.await.expect("a write");
        for _ in 0..n % 4 {
            sqlx::query("SELECT 1").execute(&mut *tx).await.unwrap();
        }
        let turn = sqlx::query_scalar("UPDATE counter SET n = n + 1 RETURNING n");
        let number: i64 = turn.fetch_one(&mut *tx).await.expect("a turn");
        let message = Message::new(number.to_string());
        orders.append_in(&mut tx, message).await.expect("appended");
        postgres::commit(tx).await.expect("committed");
    }
}

/// What a call leaves in the outbox, with its message in each of these partitions.
async fn leave(session: &mut PgConnection, body: &str, partitions: &[i32]) {
    let place = sqlx::query_scalar("SELECT flowstream.incarnation()::text");
    let place: String = place.fetch_one(&mut *session).await.expect("a place");
    let sql = include_str!("../src/storage/postgres/sql/append_many_in.sql");
    let count = partitions.len();
    let call = sqlx::query(sqlx::AssertSqlSafe(sql.replace("{schema}", "flowstream")))
        .bind(place)
        .bind(uuid::Uuid::from_u128(Id::random().0))
        .bind(vec!["orders"; count])
        .bind(partitions)
        .bind(vec![1; count])
        .bind(vec![&(body.len() as u32).to_le_bytes()[..]; count])
        .bind(vec![body.as_bytes(); count])
        .bind(vec![None::<Vec<u8>>; count])
        .bind(vec![None::<Vec<u8>>; count]);
    call.execute(session).await.expect("it is left");
}

/// Opens and closes a storage, so that everything is there and nobody moves anything.
async fn prepare(url: &str, partitions: u32) {
    let flow = flowstream::open(url).await.expect("it opens");
    flow.create_stream("orders", partitions)
        .await
        .expect("a stream");
    flow.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_had_committed_before_a_call_comes_before_it() {
    let url = cluster().url(&cluster().database());
    prepare(&url, 1).await;
    let pool = pool(&url, "read committed");
    let mut first_to_write = pool.begin().await.unwrap();
    let writes = sqlx::query("SELECT pg_current_xact_id()").execute(&mut *first_to_write);
    writes.await.expect("it begins to write");
    let mut first_to_append = pool.begin().await.unwrap();
    leave(&mut first_to_append, "one", &[0]).await;
    first_to_append.commit().await.expect("committed");
    leave(&mut first_to_write, "other", &[0]).await;
    first_to_write.commit().await.expect("committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    assert_eq!(bodies(&flow, "orders", 0, 2).await, ["one", "other"]);
}

/// A transaction may be moved in pieces: its calls one after the other, each as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_ends_between_calls() {
    let database = cluster().database();
    let url = cluster().url(&database);
    prepare(&url, 2).await;
    let pool = pool(&url, "read committed");
    let mut transactions = [pool.begin().await.unwrap(), pool.begin().await.unwrap()];
    for n in 0..6 {
        leave(&mut transactions[n % 2], &n.to_string(), &[0, 1]).await;
    }
    for transaction in transactions {
        transaction.commit().await.expect("committed");
    }
    // The fifth row is in the middle of a call, which as a whole would be too much.
    for expected in ["0:2 1:2|t", "0:4 1:4|t", "0:6 1:6|f", "|f"] {
        let moved = "SELECT string_agg(partition || ':' || end_offset, ' ' ORDER BY partition), bool_or(is_more)
                     FROM flowstream.move_outbox(NULL, 5)";
        assert_eq!(cluster().psql(&database, moved).trim(), expected);
    }
    let flow = flowstream::open(&url).await.expect("it opens");
    for partition in 0..2 {
        let bodies = bodies(&flow, "orders", partition, 6).await;
        assert_eq!(bodies, ["0", "1", "2", "3", "4", "5"]);
    }
}

/// Commits in one way or the other, or rolls back.
async fn transact(
    pool: &PgPool,
    orders: &mut Producer,
    client: usize,
    n: usize,
    calls: usize,
) -> flowstream::Result<()> {
    let mut tx = pool.begin().await.unwrap();
    for call in 0..calls {
        let messages = (0..3).map(|m| {
            let message = Message::new(format!("{client} {n} {call} {m}"));
            message.with_key(format!("{}", (client + m) % 5))
        });
        let messages: Vec<Message> = messages.collect();
        orders.append_in(&mut tx, messages).await?;
    }
    match n % 5 {
        0 => tx.rollback().await.unwrap(),
        1 => {
            // Nobody says that it is over.
            if let Err(error) = tx.commit().await {
                let code = error.as_database_error().and_then(|said| said.code());
                assert_eq!(code.as_deref(), Some("40001"), "{error:?}");
                return Err(Error::new(ErrorKind::Unavailable, "begin again"));
            }
        }
        2 => {
            drop(tx);
            let direct = Message::new("direct").with_key("a");
            orders.append(direct).await.expect("appended");
        }
        _ => postgres::commit(tx).await?,
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_transaction_is_told() {
    let url = cluster().url(&cluster().database());
    let pool = pool(&url, "read committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut tx = pool.begin().await.unwrap();
    orders
        .append_in(&mut tx, Message::new("lost"))
        .await
        .expect("appended");
    sqlx::query("SELECT 1 / 0")
        .execute(&mut *tx)
        .await
        .expect_err("a swallowed error");
    let error = orders
        .append_in(&mut tx, Message::new("late"))
        .await
        .expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.unsent.len(), 1);
    let error = postgres::commit(tx).await.expect_err("rolled back");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(!error.in_doubt());

    // What sqlx says.
    let mut tx = pool.begin().await.unwrap();
    orders
        .append_in(&mut tx, Message::new("lost"))
        .await
        .expect("appended");
    sqlx::query("SELECT 1 / 0")
        .execute(&mut *tx)
        .await
        .expect_err("a swallowed error");
    tx.commit()
        .await
        .expect("which is why there is postgres::commit");

    let mut tx = pool.begin().await.unwrap();
    orders
        .append_in(&mut tx, Message::new("there"))
        .await
        .expect("appended");
    postgres::commit(tx).await.expect("committed");
    assert_eq!(bodies(&flow, "orders", 0, 1).await, ["there"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_answer_is_in_doubt() {
    let database = cluster().database();
    let proxy = Proxy::start(cluster().port()).await;
    let pool = PgPool::connect(&proxy.url(&database))
        .await
        .expect("a pool");
    let flow = flowstream::open(&cluster().url(&database))
        .await
        .expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut tx = pool.begin().await.unwrap();
    // Holds the commit up until the line is cut.
    let mut holder = self::pool(&cluster().url(&database), "read committed")
        .begin()
        .await
        .unwrap();
    let lock = sqlx::raw_sql("SELECT pg_advisory_xact_lock(1)");
    lock.execute(&mut *holder).await.unwrap();
    sqlx::raw_sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
             AS 'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
         CREATE TABLE slow (id int);
         CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION wait();
         INSERT INTO slow VALUES (1)",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    orders
        .append_in(&mut tx, Message::new("perhaps"))
        .await
        .expect("appended");
    let committing = tokio::spawn(postgres::commit(tx));
    eventually(async || {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'";
        cluster().psql(&database, sql).trim() == "1"
    })
    .await;
    proxy.set(Network::Cut);
    let error = committing.await.unwrap().expect_err("no answer");
    assert!(error.in_doubt() && error.is_transient(), "{error:?}");
    holder.rollback().await.unwrap();
    // It did commit, and that is found.
    assert_eq!(bodies(&flow, "orders", 0, 1).await, ["perhaps"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_appended_is_refused_before_anything_is_written() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, "read committed");
    let flow = Options::new()
        .max_message_bytes(100)
        .open(&url)
        .await
        .expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    orders.append(Message::new("0")).await.expect("appended");
    let relayed = consumer.try_next().await.unwrap().unwrap().into_message();
    let mut tx = pool.begin().await.unwrap();
    for batch in [
        vec![Message::new("fits"), Message::new(vec![0; 101])],
        vec![Message::new("fits"), relayed],
    ] {
        let count = batch.len();
        let error = orders.append_in(&mut tx, batch).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(error.unsent.len(), count);
    }
    let nothing: Vec<Message> = Vec::new();
    orders
        .append_in(&mut tx, nothing)
        .await
        .expect("nothing to do");
    let rows = sqlx::query("SELECT * FROM flowstream.outbox")
        .fetch_all(&mut *tx)
        .await;
    assert_eq!(rows.unwrap().len(), 0);
    postgres::commit(tx).await.expect("it goes on");

    let memory = flowstream::open("memory:").await.expect("it opens");
    let mut elsewhere = memory.producer("orders").await.expect("a producer");
    let mut tx = pool.begin().await.unwrap();
    let error = elsewhere
        .append_in(&mut tx, Message::new("a"))
        .await
        .expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    postgres::commit(tx).await.expect("it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_another_database_is_told() {
    let flow = flowstream::open(&cluster().url(&cluster().database()))
        .await
        .expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    // One without the schema; one with; and the other schema of the same.
    let empty = cluster().database();
    let other = cluster().database();
    flowstream::open(&cluster().url(&other))
        .await
        .expect("it opens");
    for database in [empty, other] {
        let pool = pool(&cluster().url(&database), "read committed");
        let mut tx = pool.begin().await.unwrap();
        let error = orders
            .append_in(&mut tx, Message::new("a"))
            .await
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("another database"), "{error}");
        let error = postgres::commit(tx).await.expect_err("failed");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

/// A pooler in transaction mode, for the storage and the application alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_transaction_pooler() {
    let Some(bouncer) = Bouncer::start(cluster()) else {
        eprintln!("pgbouncer is not installed: skipped");
        return;
    };
    let url = bouncer.url(&cluster().database());
    let pool = PgPool::connect_lazy(&url).expect("a pool");
    let options = PostgresOptions::new().pooled(true);
    let storage = PostgresStorage::from_pool(pool.clone(), options).await;
    let flow = Options::new().open_storage(Arc::new(storage.expect("it opens")));
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut events = flow.producer("events").await.expect("a producer");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    orders
        .append(["0", "1", "2"].map(Message::new))
        .await
        .expect("appended");
    for n in ["0", "1", "2"] {
        let delivery = consumer.try_next().await.unwrap().expect("a delivery");
        let mut tx = pool.begin().await.unwrap();
        let event = Message::new(n)
            .with_key("a")
            .with_header("of", "billing")
            .unwrap();
        events.append_in(&mut tx, event).await.expect("appended");
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        postgres::commit(tx).await.expect("committed");
    }
    assert_eq!(bodies(&flow, "events", 0, 3).await, ["0", "1", "2"]);
    assert_eq!(
        flow.group("orders", "billing").await.unwrap()[0].position(),
        3
    );
}

/// Another server, after a failover, or one that counts transactions from less than a move saw: a
/// restored database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_looks_at_all_where_the_server_is_not_the_one_it_was() {
    let database = cluster().database();
    let url = cluster().url(&database);
    prepare(&url, 1).await;
    let mut session = PgConnection::connect(&url).await.expect("a session");
    let moved = |seen: &str| {
        let moved =
            format!("SELECT coalesce(stream, 'none') FROM flowstream.move_outbox({seen}, 100)");
        cluster().psql(&database, &moved).trim().to_owned()
    };
    let here = "flowstream.incarnation() || '/' || extract(epoch FROM pg_postmaster_start_time())";
    let now = &format!("{here} || ' ' || pg_current_snapshot()");
    for elsewhere in [
        &format!("{here} || ' 9000000000:9000000000:'"),
        "'7/7 ' || pg_current_snapshot()",
        // It ran since then, or its files were put back: it is told by when it was started.
        "flowstream.incarnation() || '/7 ' || pg_current_snapshot()",
    ] {
        leave(&mut session, "restored", &[0]).await;
        assert_eq!(moved(now), "none", "moved before that");
        assert_eq!(moved(elsewhere), "orders");
    }
}

/// A failover may lose a stream whose messages a transaction appends later: its process knows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_to_a_stream_that_is_gone_is_kept() {
    let database = cluster().database();
    let url = cluster().url(&database);
    prepare(&url, 1).await;
    let mut session = PgConnection::connect(&url).await.expect("a session");
    leave(&mut session, "kept", &[0]).await;
    cluster().psql(
        &database,
        "DELETE FROM flowstream.partitions; DELETE FROM flowstream.streams",
    );
    for at_most in [1, 100] {
        let moved =
            format!("SELECT stream IS NULL, is_more FROM flowstream.move_outbox(NULL, {at_most})");
        assert_eq!(cluster().psql(&database, &moved).trim(), "t|f");
    }
    assert_eq!(outbox_rows(&database), "1");
    prepare(&url, 1).await;
    let flow = flowstream::open(&url).await.expect("it opens");
    assert_eq!(bodies(&flow, "orders", 0, 1).await, ["kept"]);
}

/// Its id may stand for another one there, or for none yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_a_server_that_is_gone_is_over() {
    let url = cluster().url(&cluster().database());
    prepare(&url, 1).await;
    let mut session = PgConnection::connect(&url).await.expect("a session");
    let place = sqlx::query_scalar("SELECT flowstream.incarnation()::text");
    let here: String = place.fetch_one(&mut session).await.expect("a place");
    let sql = include_str!("../src/storage/postgres/sql/ended_transactions.sql");
    let look = sqlx::query_as(sqlx::AssertSqlSafe(sql.replace("{schema}", "flowstream")))
        .bind([here, "7".to_owned()])
        .bind(["9000000000", "9000000000"])
        .bind(["", ""])
        .bind([0, 0])
        .bind(["", ""])
        .bind([0_i64, 0]);
    let over: Vec<(i32, bool)> = look.fetch_all(&mut session).await.expect("a look");
    assert_eq!(over, [(2, false)]);
}

/// Prints how moves fare while a snapshot is held open. Run with
/// `cargo test --release --all-features --test postgres_outbox -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn moves_while_a_snapshot_is_pinned() {
    const WINDOW: Duration = Duration::from_secs(4);
    let url = cluster().url(&cluster().database());
    let pool = pool(&url, "read committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    let orders = flow.producer("orders").await.expect("a producer");
    let mut sent = 0;
    for round in 0..3 {
        for pins in ["free", "read", "write"] {
            let mut pin = self::pool(&url, "repeatable read").begin().await.unwrap();
            if pins != "free" {
                sqlx::query("SELECT count(*) FROM flowstream.streams")
                    .execute(&mut *pin)
                    .await
                    .unwrap();
            }
            if pins == "write" {
                sqlx::query("SELECT pg_current_xact_id()")
                    .execute(&mut *pin)
                    .await
                    .unwrap();
            }
            let mut counts = Vec::new();
            for _ in 0..3 {
                let began = Instant::now();
                let clients = (0..4).map(|_| {
                    let (pool, mut orders) = (pool.clone(), orders.clone());
                    tokio::spawn(async move {
                        let mut count = 0;
                        while began.elapsed() < WINDOW {
                            let mut tx = pool.begin().await.unwrap();
                            orders.append_in(&mut tx, Message::new("a")).await.unwrap();
                            postgres::commit(tx).await.unwrap();
                            count += 1;
                        }
                        count
                    })
                });
                let clients: Vec<_> = clients.collect();
                let mut count = 0;
                for client in clients {
                    count += client.await.unwrap();
                }
                sent += count;
                eventually(async || flow.bounds("orders").await.unwrap()[0].end == sent).await;
                counts.push((count as f64 / began.elapsed().as_secs_f64()).round());
            }
            println!(
                "round {round}, {pins:>5}: transactions a second, in windows of 4 s: {counts:?}"
            );
            drop(pin);
        }
    }
}
