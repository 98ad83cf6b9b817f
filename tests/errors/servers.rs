//! PostgreSQL: what cannot be opened, and what goes wrong later.

use std::sync::OnceLock;
use std::time::Duration;

use flowstream::postgres::sqlx::postgres::PgPoolOptions;
use flowstream::postgres::sqlx::{self, AssertSqlSafe};
use flowstream::storage::{PostgresOptions, PostgresStorage, schema_sql};
use flowstream::{Flowstream, Message, Options, Result};
use futures::SinkExt;

use crate::calls;
use crate::listing::Listing;
use crate::postgres_support::{Cluster, FAULTS, Stop};
use crate::refused;

pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start_with(&[("log_statement", "none")]);
        cluster.role_with_password("secret_role", "hunter2", "scram-sha-256");
        cluster
    })
}

/// A listing in which what varies of the server has a name.
pub(crate) fn listing(section: &'static str, database: &str) -> Listing {
    let mut listing = Listing::new(section);
    listing.name(format!("127.0.0.1:{}", cluster().port()), "HOST");
    listing.name(format!("HOST/{database}"), "HOST/DATABASE");
    listing.name(format!("\"{database}\""), "\"DATABASE\"");
    listing
}

pub(crate) async fn open(url: &str) -> Result<Flowstream> {
    let options = Options::new().retry_for(Duration::ZERO);
    options.open(url).await
}

/// Once, one text stood for three causes.
#[tokio::test]
async fn logins() {
    let cluster = cluster();
    let database = cluster.database();
    let mut listing = listing("Logins that are refused", &database);
    let port = cluster.port();
    let url = |login: &str| format!("postgres://{login}@127.0.0.1:{port}/{database}");
    cluster.psql("postgres", "CREATE ROLE secret_role_out NOLOGIN");
    listing.refused("a wrong password", open(&url("secret_role:hunter3")).await);
    listing.refused("no password", open(&url("secret_role")).await);
    listing.refused("no such role", open(&url("secret_role_none:hunter2")).await);
    listing.refused(
        "a role that may not log in",
        open(&url("secret_role_out")).await,
    );
    for (what, role, line) in [
        ("a line that rejects", "secret_role_rejected", "reject"),
        ("another way to log in", "secret_role_peer", "ident"),
    ] {
        cluster.role_with_password(role, "hunter2", line);
        listing.refused(what, open(&url(&format!("{role}:hunter2"))).await);
    }
    // The right one. Newer passwords are asked for as before.
    open(&url("secret_role:hunter2")).await.expect("it opens");
    listing.refused(
        "no such database",
        open(&url("secret_role:hunter2").replace(&database, "none")).await,
    );
    listing.compare();
}

#[tokio::test]
async fn servers_that_cannot_be_used() {
    let database = cluster().database();
    let mut listing = listing("Servers that cannot be used", &database);
    listing.refused(
        "nobody listens",
        open("postgres://secret_role:hunter2@127.0.0.1:1/x").await,
    );
    listing.refused(
        "a socket that is not there",
        open("postgres://secret_role:hunter2@localhost/x?host=/no/such").await,
    );
    let unknown = open("postgres://secret_role:hunter2@no-such-host.invalid/x").await;
    assert!(
        refused(unknown)
            .to_string()
            .contains("no-such-host.invalid:5432/x cannot be reached: ")
    );
    let tls = format!("{}?sslmode=require", cluster().url(&database));
    listing.refused("a server without TLS", open(&tls).await);
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    listing.name(format!("127.0.0.1:{port}"), "ELSEWHERE");
    let talks = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let http = open(&format!("postgres://127.0.0.1:{port}/x?sslmode=disable")).await;
    assert!(refused(http).to_string().contains("cannot be reached: "));
    talks.join().unwrap();

    let full = Cluster::start_with(&[
        ("max_connections", "4"),
        ("superuser_reserved_connections", "0"),
    ]);
    listing.name(format!("127.0.0.1:{}", full.port()), "FULL");
    let mut hogs = Vec::new();
    let url = full.url("postgres");
    while let Ok(hog) = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await {
        hogs.push(hog);
    }
    listing.refused("too many connections", open(&url).await);
    drop(hogs);

    let standby = cluster().standby();
    listing.name(format!("127.0.0.1:{}", standby.port()), "STANDBY");
    let ready = cluster().database();
    drop(open(&cluster().url(&ready)).await.expect("it opens"));
    standby.catch_up(cluster());
    listing.refused("a standby", open(&standby.url("postgres")).await);
    listing.name(format!("STANDBY/{ready}"), "STANDBY/DATABASE");
    let flow = open(&standby.url(&ready)).await.expect("it only looks");
    listing.refused("a producer at a standby", flow.producer("orders").await);
    listing.compare();
}

/// The statements that the texts name are enough.
#[tokio::test]
async fn rights_and_schemas() {
    let cluster = cluster();
    let database = cluster.database();
    let mut listing = listing("Rights and schemas", &database);
    let role = format!("app_{database}");
    let made = format!(
        "CREATE ROLE {role} LOGIN; REVOKE ALL ON DATABASE {database} FROM PUBLIC;
         GRANT CONNECT ON DATABASE {database} TO {role};
         ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC"
    );
    cluster.psql(&database, &made);
    let url = cluster.url_as(&role, &database);
    listing.refused("a role that may not make the schema", open(&url).await);
    let check = PostgresOptions::new().migrate(false);
    let missing = PostgresStorage::connect(&cluster.url(&database), check).await;
    listing.refused("a schema that is not to be made", missing);
    for name in ["1st", "pg_x", "a\"b"] {
        let options = PostgresOptions::new().schema(name);
        listing.refused(&format!("schema({name:?})"), schema_sql(&options));
    }
    cluster.psql(&database, &Flowstream::schema_sql());
    let error = refused(open(&url).await);
    listing.add("a role without rights in the schema", &error);
    let text = error.to_string();
    let (_, grants) = text.split_once("for this role: ").expect("what to run");
    cluster.psql(
        &database,
        &grants.replace(" TO role", &format!(" TO {role}")),
    );
    let flow = open(&url).await.expect("it opens");
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("one".into()).await.expect("it is sent");
    cluster.psql(
        &database,
        &format!("REVOKE INSERT ON flowstream.batches FROM {role}"),
    );
    listing.refused(
        "a right that was taken away",
        producer.send("two".into()).await,
    );
    producer.take_unsent().await;
    cluster.psql(&database, "ALTER TABLE flowstream.batches RENAME TO moved");
    listing.refused(
        "a table that somebody renamed",
        producer.send("three".into()).await,
    );
    producer.take_unsent().await;
    cluster.psql(&database, "ALTER TABLE flowstream.moved RENAME TO batches");
    cluster.psql(&database, "UPDATE flowstream.version SET version = 99");
    listing.refused("a newer schema", open(&url).await);
    listing.compare();
}

#[tokio::test]
async fn what_a_server_says() {
    let database = cluster().database();
    let mut listing = listing("What a server says", &database);
    let flow = open(&cluster().url(&database)).await.expect("it opens");
    cluster().psql(&database, FAULTS);
    let mut producer = flow.producer("orders").await.expect("a producer");
    for (what, code) in [
        ("the disk is full", "53100"),
        ("a deadlock", "40P01"),
        ("a lock that was waited for in vain", "55P03"),
        ("a statement that was cancelled", "57014"),
        ("a server that ends", "57P01"),
        ("an error of its files", "58030"),
        ("it is read-only", "25006"),
        ("no rights", "42501"),
        ("no such table", "42P01"),
        ("damage", "XX001"),
        ("a number that cannot be", "22003"),
        ("another error", "22012"),
    ] {
        let set = format!("TRUNCATE public.fault; INSERT INTO public.fault VALUES ('{code}')");
        cluster().psql(&database, &set);
        let sent = producer.append(Message::new("secret-body")).await;
        listing.refused(&format!("{what}, {code}"), sent);
    }
    listing.compare();
}

#[tokio::test]
async fn connections() {
    let database = cluster().database();
    let mut listing = listing("Connections that are not there", &database);
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .acquire_timeout(Duration::from_millis(500));
    let pool = pool.connect(&cluster().url(&database)).await.unwrap();
    let storage = PostgresStorage::from_pool(pool.clone(), PostgresOptions::new()).await;
    let storage = std::sync::Arc::new(storage.expect("it opens"));
    let options = Options::new().retry_for(Duration::ZERO);
    let flow = options.open_storage(storage);
    let mut producer = flow.producer("orders").await.expect("a producer");
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(pool.acquire().await.expect("a connection"));
    }
    let append = producer.append(Message::new("secret-body")).await;
    listing.refused("the application has all connections of its pool", append);
    drop(held);
    pool.close().await;
    let append = producer.append(Message::new("secret-body")).await;
    listing.refused("the application has closed its pool", append);

    let nowhere = PgPoolOptions::new().acquire_timeout(Duration::from_millis(500));
    let nowhere = nowhere
        .connect_lazy("postgres://secret_role:hunter2@127.0.0.1:1/x")
        .unwrap();
    let opened = PostgresStorage::from_pool(nowhere, PostgresOptions::new()).await;
    listing.refused("a pool that makes no connection", opened);

    let mut own = Cluster::start_new();
    listing.name(format!("127.0.0.1:{}", own.port()), "SERVER");
    let own = &mut own;
    let options = PostgresOptions::new()
        .max_connections(1)
        .statement_timeout(Duration::from_secs(300));
    let hasty = Options::new().retry_for(Duration::ZERO).postgres(options);
    let flow = hasty.open(&own.url("postgres")).await.expect("it opens");
    let mut producer = flow.producer("orders").await.expect("a producer");
    let lock = "SELECT FROM flowstream.partitions FOR UPDATE";
    let mut other = <sqlx::PgConnection as sqlx::Connection>::connect(&own.url("postgres"))
        .await
        .unwrap();
    let begin = sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {lock}")));
    begin.execute(&mut other).await.unwrap();
    let waiting = tokio::spawn(async move { producer.append(Message::new("x")).await.map(drop) });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    while own.psql("postgres", waits).trim() == "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    listing.refused(
        "a read while one append has the only connection",
        flow.read("orders", 0, 0).await,
    );
    own.stop(Stop::Immediate);
    let broke = refused(waiting.await.unwrap());
    assert!(broke.in_doubt() && broke.is_transient(), "{broke:?}");
    listing.refused("a server that was stopped", flow.read("orders", 0, 0).await);
    listing.compare();
}

#[tokio::test]
async fn streams_of_servers() {
    let database = cluster().database();
    let mut listing = listing("Streams and groups in PostgreSQL", &database);
    let flow = open(&cluster().url(&database)).await.expect("it opens");
    let none = flow.bounds("orders").await;
    listing.refused("stream(\"orders\") where there is none at all", none);
    calls::streams(&mut listing, &flow).await;
    listing.compare();
}

/// Rows that somebody else wrote, or deleted.
#[tokio::test]
async fn damage() {
    let database = cluster().database();
    let mut listing = listing("Damage in PostgreSQL", &database);
    let flow = open(&cluster().url(&database)).await.expect("it opens");
    let mut producer = flow.producer("orders").await.expect("a producer");
    for _ in 0..3 {
        producer
            .send("secret-body".into())
            .await
            .expect("it is sent");
    }
    let sql = |sql: &str| cluster().psql(&database, sql);
    sql("DELETE FROM flowstream.batches WHERE base_offset = 1");
    listing.refused("a batch that is missing", flow.read("orders", 0, 1).await);
    sql("UPDATE flowstream.batches SET ends = 'hunter2' WHERE base_offset = 2");
    listing.refused("a batch that is damaged", flow.read("orders", 0, 2).await);
    sql("DELETE FROM flowstream.batches WHERE base_offset = 2");
    sql("UPDATE flowstream.batches SET base_offset = 5");
    let mut consumer = flow
        .consumer("orders", "billing")
        .await
        .expect("a consumer");
    let read = crate::support::soon("it", consumer.try_next()).await;
    listing.refused("a consumer where a batch is missing", read);
    sql("UPDATE flowstream.streams SET partitions = 0");
    listing.refused(
        "a stream without partitions",
        flow.create_stream("orders", 1).await,
    );
    listing.compare();
}
