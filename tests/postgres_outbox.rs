//! Appending in a transaction of the application.

#![cfg(feature = "postgres")]

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use flowstream::postgres::{self, DeliveryExt, ProducerExt, sqlx};
use flowstream::storage::{PostgresOptions, PostgresStorage};
use flowstream::{Error, ErrorKind, Flowstream, Message, Options, Producer};
use postgres_support::proxy::{Network, Proxy};
use postgres_support::{Bouncer, Cluster};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Acquire, PgPool};

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
        .acquire_timeout(Duration::from_secs(60))
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
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not within a minute");
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
        let bounds = flow.stream("orders").await.unwrap();
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
            let bounds = flows[0].stream("orders").await.expect("bounds");
            bounds.iter().map(|bounds| bounds.end).sum::<u64>() >= count as u64
        })
        .await;
        assert_eq!(outbox_rows(&database), "0");
        for partition in 0..PARTITIONS {
            // Of each client, in the order of its transactions, calls and messages.
            let mut last: HashMap<usize, (usize, usize, usize)> = HashMap::new();
            let end = flows[0].stream("orders").await.unwrap()[partition as usize].end;
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
    let mut error = orders
        .append_in(&mut tx, Message::new("late"))
        .await
        .expect_err("failed");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.take_unsent().map(|batch| batch.len()), Some(1));
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
    sqlx::raw_sql(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(2); RETURN NULL; END';
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
        let mut error = orders.append_in(&mut tx, batch).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(error.take_unsent().map(|batch| batch.len()), Some(count));
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

/// The server counts transactions from less than a move saw: a restored database.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_looks_at_all_where_the_server_is_not_the_one_it_was() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let pool = pool(&url, "read committed");
    let flow = flowstream::open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    flow.close().await.expect("closed");
    drop(flow);
    let flow = flowstream::open(&url).await.expect("it opens");
    orders = flow.producer("orders").await.unwrap_or(orders);
    let mut tx = pool.begin().await.unwrap();
    orders
        .append_in(&mut tx, Message::new("restored"))
        .await
        .expect("appended");
    flow.close().await.expect("closed");
    tx.commit().await.unwrap();
    let seen = |at: &str| {
        format!("SELECT coalesce(stream, 'none') FROM flowstream.move_outbox('{at}', 100)")
    };
    let now = cluster().psql(&database, "SELECT pg_current_snapshot()");
    assert_eq!(
        cluster().psql(&database, &seen(now.trim())).trim(),
        "none",
        "moved before that"
    );
    let far = "9000000000:9000000000:";
    assert_eq!(cluster().psql(&database, &seen(far)).trim(), "orders");
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
                eventually(async || flow.stream("orders").await.unwrap()[0].end == sent).await;
                counts.push((count as f64 / began.elapsed().as_secs_f64()).round());
            }
            println!(
                "round {round}, {pins:>5}: transactions a second, in windows of 4 s: {counts:?}"
            );
            drop(pin);
        }
    }
}
