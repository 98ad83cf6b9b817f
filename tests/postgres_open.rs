//! Opening: the schema is made once, by whoever comes first, and only by those who may.

#![cfg(feature = "postgres")]

use flowstream::storage::{
    Id, Name, Partition, PostgresOptions, PostgresStorage, Storage, schema_sql,
};
use flowstream::{ErrorKind, Flowstream, Message, Options, Result};
use futures::{SinkExt, future};
use postgres_support::Cluster;
use sqlx::{Connection, PgConnection};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

async fn connect(url: &str) -> Result<PostgresStorage> {
    PostgresStorage::connect(url, PostgresOptions::new()).await
}

async fn round_trip(flow: &Flowstream) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    let message = Message::new("hello");
    producer.send(message).await.expect("a message is sent");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let delivery = consumer.try_next().await.expect("no error");
    let delivery = delivery.expect("a delivery");
    assert_eq!(&delivery.body()[..], b"hello");
    delivery.commit().await.expect("a commit");
    consumer.control().shutdown().await;
}

#[tokio::test]
async fn a_url_opens_a_storage() {
    let database = cluster().database();
    for scheme in ["postgres", "postgresql"] {
        let url = cluster().url(&database).replacen("postgres", scheme, 1);
        let options = Options::new().postgres(PostgresOptions::new().schema(scheme));
        let flow = options.open(&url).await.expect("it opens");
        round_trip(&flow).await;
        flow.close().await.expect("it closes");
    }
    let flow = flowstream::open(&cluster().socket_url(&database)).await;
    round_trip(&flow.expect("it opens over the socket")).await;
}

#[tokio::test]
async fn a_pool_of_the_application_serves() {
    let database = cluster().database();
    let pool = sqlx::PgPool::connect(&cluster().url(&database)).await;
    let pool = pool.expect("a pool");
    let flow = Flowstream::from_pool(pool.clone()).await.expect("it opens");
    round_trip(&flow).await;
    flow.close().await.expect("it closes");
    assert!(!pool.is_closed(), "the pool is the application's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_those_that_open_at_once_one_makes_the_schema() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let database = cluster().database();
        cluster().psql(
            "postgres",
            &format!("ALTER DATABASE {database} SET default_transaction_isolation = '{level}'"),
        );
        let url = cluster().url(&database);
        // As 16 processes would: nothing is shared.
        let opened = future::join_all((0..16).map(|_| connect(&url))).await;
        for storage in opened {
            let storage = storage.expect("each opens");
            storage.close().await.expect("it closes");
        }
        let made = cluster().psql(&database, "SELECT count(*) FROM flowstream.version");
        assert_eq!(made.trim(), "1", "at {level}");
    }
}

const CHILD: &str = "FLOWSTREAM_OPEN_CHILD";

/// A process that opens, says so, and stays until its standard input ends.
#[tokio::test]
async fn child() {
    let Ok(url) = std::env::var(CHILD) else {
        return;
    };
    let storage = connect(&url).await.expect("it opens");
    println!("opened {storage:?}");
    let mut nothing = String::new();
    std::io::stdin().read_line(&mut nothing).unwrap();
}

fn open_in_a_process(url: &str) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    child.expect("a process")
}

#[test]
fn of_16_processes_that_open_at_once_one_makes_the_schema() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let children: Vec<Child> = (0..16).map(|_| open_in_a_process(&url)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("opened "),
            "{said}"
        );
    }
    let made = cluster().psql(
        &database,
        "SELECT count(*), max(version) FROM flowstream.version",
    );
    assert_eq!(made.trim(), "1|1");
}

/// A database where whoever makes the schema stops in the midst of it, with most of it made, as long
/// as `holder` is there.
async fn halfway() -> (String, PgConnection) {
    let database = cluster().database();
    cluster().psql(
        &database,
        "CREATE FUNCTION public.stop() RETURNS event_trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_advisory_xact_lock_shared(7); END';
         CREATE EVENT TRIGGER stop ON ddl_command_end WHEN TAG IN ('CREATE VIEW')
            EXECUTE FUNCTION public.stop()",
    );
    let url = cluster().url(&database);
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let lock = "SELECT pg_advisory_lock(7)";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    (database, holder)
}

/// The backend that stopped there.
async fn stopped(database: &str) -> u32 {
    let waiting = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND wait_event = 'advisory'"
    );
    loop {
        let pid = cluster().psql(database, &waiting);
        if let Ok(pid) = pid.trim().parse() {
            return pid;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_was_killed_halfway_is_made_by_the_next() {
    // The server's part ends.
    let (database, holder) = halfway().await;
    let url = cluster().url(&database);
    let opening = tokio::spawn({
        let url = url.clone();
        async move { connect(&url).await.map(|_| ()) }
    });
    let pid = stopped(&database).await;
    cluster().psql(&database, &format!("SELECT pg_terminate_backend({pid})"));
    let error = opening.await.unwrap().expect_err("it was killed");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'flowstream'";
    assert_eq!(
        cluster().psql(&database, there).trim(),
        "0",
        "nothing of it"
    );
    drop(holder);
    round_trip(&flowstream::open(&url).await.expect("the next makes it")).await;

    // The process ends.
    let (database, holder) = halfway().await;
    let url = cluster().url(&database);
    let mut child = open_in_a_process(&url);
    stopped(&database).await;
    child.kill().unwrap();
    child.wait().unwrap();
    drop(holder);
    round_trip(&flowstream::open(&url).await.expect("the next finishes it")).await;
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_a_missing_one_only_checked() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let check = PostgresOptions::new().migrate(false);
    let error = PostgresStorage::connect(&url, check.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'flowstream'";
    assert_eq!(cluster().psql(&database, there).trim(), "0", "only checked");
    // By hand, twice.
    for _ in 0..2 {
        cluster().psql(&database, &Flowstream::schema_sql());
    }
    PostgresStorage::connect(&url, check.clone())
        .await
        .expect("it is there");
    cluster().psql(&database, "UPDATE flowstream.version SET version = 99");
    for options in [check, PostgresOptions::new()] {
        let error = PostgresStorage::connect(&url, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("99"), "{error}");
    }
}

/// The rights that the documentation lists are enough for all, also where nobody has any by being
/// PUBLIC, and in a schema that another role made.
#[tokio::test]
async fn a_role_without_rights_is_told_what_to_run_and_needs_few() {
    let database = cluster().database();
    cluster().psql(
        &database,
        &format!(
            "CREATE ROLE simple_owner LOGIN;
             CREATE ROLE simple_app LOGIN PASSWORD 'hunter2';
             CREATE ROLE simple_reader LOGIN;
             REVOKE ALL ON DATABASE {database} FROM PUBLIC;
             REVOKE ALL ON SCHEMA public FROM PUBLIC;
             GRANT CONNECT, CREATE ON DATABASE {database} TO simple_owner;
             GRANT CONNECT ON DATABASE {database} TO simple_app, simple_reader;
             ALTER DEFAULT PRIVILEGES FOR ROLE simple_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC"
        ),
    );
    let url = cluster().url_as("simple_app:hunter2", &database);
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let text = error.to_string();
    assert!(
        text.contains("schema_sql") && text.contains("CREATE SCHEMA"),
        "{text}"
    );

    let owner = cluster().url_as("simple_owner", &database);
    let options = PostgresOptions::new();
    cluster().psql_at(&owner, &schema_sql(&options).unwrap());
    let error = connect(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    cluster().psql_at(
        &owner,
        "GRANT USAGE ON SCHEMA flowstream TO simple_app, simple_reader;
         GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA flowstream TO simple_reader;
         GRANT SELECT ON flowstream.messages TO simple_reader;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA flowstream TO simple_app",
    );
    let flow = flowstream::open(&url).await.expect("it opens");
    let error = flow.producer("orders").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("function"), "{error}");
    cluster().psql_at(
        &owner,
        "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA flowstream TO simple_app",
    );
    round_trip(&flow).await;
    flow.create_stream("wide", 3).await.expect("a stream");
    let batch = [
        Message::new("a").with_stream("orders").expect("a name"),
        Message::new("b")
            .with_key("k")
            .with_stream("wide")
            .expect("a name"),
    ];
    let mut producer = flow.producer("orders").await.expect("a producer");
    let batch = batch.into_iter().collect::<flowstream::Batch>();
    producer.append(batch).await.expect("several rows");
    let group = flow.group("orders", "billing").await.expect("a group");
    assert_eq!(group[0].position(), 1);
    relay(&flow, "orders", "relayed").await;
    flow.trim("orders", 0, 2).await.expect("a trim");
    let storage = connect(&url).await.expect("it opens");
    let orders = [Partition {
        stream: Name::new("orders").unwrap(),
        index: 0,
    }];
    let settled = storage.settle(Id::random(), &orders).await;
    assert_eq!(settled.expect("an answer"), None);

    let read = "SELECT stream, body FROM flowstream.messages ORDER BY 1, 2";
    for role in ["simple_app", "simple_reader"] {
        let seen = cluster().psql_at(&cluster().url_as(role, &database), read);
        assert_eq!(seen.trim(), "relayed|a\nwide|b", "by {role}");
    }
}

/// A message with its commit, in one transaction.
/// For change capture, or for an upgrade by logical replication.
#[tokio::test]
async fn a_database_whose_tables_are_all_published_opens() {
    let database = cluster().database();
    cluster().psql(&database, "CREATE PUBLICATION everything FOR ALL TABLES");
    let flow = flowstream::open(&cluster().url(&database)).await;
    let flow = flow.expect("it opens");
    round_trip(&flow).await;
    let without_key = "SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'flowstream'::regnamespace AND c.relkind = 'r'
            AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)";
    assert_eq!(cluster().psql(&database, without_key).trim(), "");
}

#[tokio::test]
async fn a_schema_of_somebody_else_is_filled() {
    let database = cluster().database();
    let role = format!("fills_{database}");
    let made = format!(
        "CREATE ROLE {role} LOGIN; CREATE SCHEMA flowstream;
         GRANT USAGE, CREATE ON SCHEMA flowstream TO {role}"
    );
    cluster().psql(&database, &made);
    let flow = flowstream::open(&cluster().url_as(&role, &database)).await;
    round_trip(&flow.expect("it opens")).await;
}

/// Logical replication copies rows, and not how far the sequences are.
#[tokio::test]
async fn sequences_behind_their_tables_catch_up() {
    let database = cluster().database();
    let flow = flowstream::open(&cluster().url(&database)).await;
    let flow = flow.expect("it opens");
    for n in 0..50 {
        let stream = format!("before {n}");
        drop(flow.consumer(stream, "billing").await.expect("a group"));
    }
    let behind = "ALTER TABLE flowstream.streams ALTER stream_id RESTART;
                  ALTER TABLE flowstream.leases ALTER group_id RESTART";
    cluster().psql(&database, behind);
    let after = flow.consumer("after", "billing").await;
    drop(after.expect("a stream and a group"));
    round_trip(&flow).await;
}

async fn relay(flow: &Flowstream, from: &str, to: &str) {
    let mut consumer = flow.consumer(from, "billing").await.expect("a consumer");
    let delivery = consumer.try_next().await.expect("no error").expect("one");
    let mut producer = flow.producer(to).await.expect("a producer");
    producer
        .send(delivery.into_message())
        .await
        .expect("it is relayed");
    consumer.control().shutdown().await;
}

#[tokio::test]
async fn errors_name_neither_role_nor_password() {
    let cluster = cluster();
    let database = cluster.database();
    cluster.psql(
        &database,
        "CREATE ROLE secret_role LOGIN CONNECTION LIMIT 0",
    );
    let port = cluster.port();
    for url in [
        cluster.url_as("secret_role:hunter2", &database),
        cluster.url_as("secret_nobody:hunter2", &database),
        cluster.url_as("secret_role:hunter2", "no_such_database"),
        "postgres://secret_role:hunter2@127.0.0.1:1/x".to_owned(),
        format!("postgres://secret_role:hunter2@127.0.0.1:{port}x/x"),
        format!("postgres://secret_role:hunter2@127.0.0.1:{port}/x?sslmode=hunter2"),
    ] {
        let hasty = Options::new().retry_for(Duration::ZERO);
        let error = hasty.open(&url).await.expect_err("it does not open");
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("secret_") && !shown.contains("hunter2"),
            "{shown}"
        );
    }
    let options = PostgresOptions::new();
    let storage = PostgresStorage::connect(&cluster.url(&database), options).await;
    let shown = format!("{:?}", storage.expect("it opens"));
    assert!(
        shown.contains(&database) && !shown.contains("postgres@"),
        "{shown}"
    );
}

/// These tests are built without TLS: `tests/tls` has it.
#[tokio::test]
async fn a_url_that_wants_tls_says_what_is_missing() {
    let url = format!("{}?sslmode=require", cluster().url("postgres"));
    let error = flowstream::open(&url).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let text = format!("{error} {error:?}");
    assert!(
        text.contains("without TLS") && text.contains("tls-rustls-ring"),
        "{text}"
    );
}

/// What is traced, by this crate and by all below it, at the finest level.
#[derive(Clone, Default)]
struct Traces(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Traces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn traces_and_debug_name_neither_role_nor_password() {
    let cluster = cluster();
    let database = cluster.database();
    cluster.psql(
        &database,
        &format!(
            "CREATE ROLE hidden_role LOGIN PASSWORD 'hunter3';
             GRANT CREATE ON DATABASE {database} TO hidden_role"
        ),
    );
    let traces = Traces::default();
    let writer = traces.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // One thread runs all of it.
    let _traced = tracing::subscriber::set_default(subscriber);

    let url = cluster.url_as("hidden_role:hunter3", &database);
    let postgres = PostgresOptions::new().listen_on(url.parse().unwrap());
    let options = Options::new().postgres(postgres.clone());
    let retry = options.clone().retry_for(Duration::from_secs(60));
    let flow = retry.open(&url).await.expect("it opens");
    round_trip(&flow).await;
    let mut producer = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow.consumer("orders", "other").await.expect("a consumer");
    let held = consumer.try_next().await.expect("no error").expect("one");
    let all = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'hidden_role'";
    cluster.psql(&database, all);
    producer.send("again".into()).await.expect("it is sent");
    cluster.psql(
        &database,
        "REVOKE ALL ON ALL TABLES IN SCHEMA flowstream FROM hidden_role",
    );
    let refused = producer
        .send("refused".into())
        .await
        .expect_err("no rights");
    cluster.psql(&database, "ALTER ROLE hidden_role CONNECTION LIMIT 0");
    cluster.psql(&database, all);
    let unreachable = flow.clone();
    let options = options.retry_for(Duration::ZERO);
    let closed = options.clone().open(&url).await.expect_err("no connection");
    let shown = format!(
        "{flow:?} {unreachable:?} {producer:?} {consumer:?} {:?} {held:?} {options:?} {postgres:?} \
         {refused:?} {closed:?} {:?}",
        consumer.control(),
        flow.producer("orders"),
    );
    let traces = String::from_utf8_lossy(&traces.0.lock().unwrap()).into_owned();
    assert!(traces.contains("flowstream"), "something is traced");
    for text in [shown, traces] {
        for secret in ["hidden_role", "hunter3"] {
            let found = text.lines().find(|line| line.contains(secret));
            assert_eq!(found, None);
        }
    }
}

#[tokio::test]
async fn the_name_of_the_schema_is_checked() {
    let url = cluster().url("postgres");
    for schema in [
        "",
        "1st",
        "a b",
        "a\"b",
        "a.b",
        "pg_x",
        "x".repeat(49).as_str(),
    ] {
        let options = PostgresOptions::new().schema(schema);
        assert_eq!(schema_sql(&options).unwrap_err().kind(), ErrorKind::Invalid);
        let error = PostgresStorage::connect(&url, options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{schema:?}");
    }
    let options = PostgresOptions::new().schema("Mixed_1");
    let storage = PostgresStorage::connect(&url, options).await;
    let name = Name::new("orders").unwrap();
    storage
        .expect("it opens")
        .create_stream(&name, None)
        .await
        .expect("a stream");
    let there = "SELECT count(*) FROM \"Mixed_1\".streams";
    assert_eq!(cluster().psql("postgres", there).trim(), "1");
}
