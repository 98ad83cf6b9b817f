//! Passwords that change, and tokens that live for minutes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::storage::{Name, PostgresOptions, PostgresStorage, Storage};
use flowstream::{ErrorKind, Message, Options};
use futures::SinkExt;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};

use crate::{PATIENCE, cluster, eventually, next};

/// What is asked for before each login.
#[derive(Clone, Default)]
struct Vault {
    password: Arc<Mutex<String>>,
    asked: Arc<AtomicU32>,
    is_away: Arc<AtomicBool>,
}

impl Vault {
    fn options(&self) -> PostgresOptions {
        let vault = self.clone();
        PostgresOptions::new().credentials(move |server: PgConnectOptions| {
            let vault = vault.clone();
            async move {
                tokio::task::yield_now().await;
                vault.asked.fetch_add(1, Ordering::Relaxed);
                if vault.is_away.load(Ordering::Relaxed) {
                    return Err("the vault is away".into());
                }
                let password = vault.password.lock().unwrap().clone();
                Ok(server.password(&password))
            }
        })
    }

    /// A new password for a role, whose sessions end: those in use too.
    fn rotate(&self, role: &str, password: &str) {
        let changed = format!("ALTER ROLE {role} PASSWORD '{password}'");
        cluster().psql("postgres", &changed);
        *self.password.lock().unwrap() = password.to_owned();
        let ended = format!(
            "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity \
             WHERE usename = '{role}'"
        );
        cluster().psql("postgres", &ended);
    }
}

fn role(database: &str) -> String {
    let role = format!("rotates_{database}");
    cluster().role_with_password(&role, "one", "scram-sha-256");
    role
}

/// The password of the URL was the one for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_login_is_made_with_the_password_of_its_time() {
    let database = cluster().database();
    let (role, vault) = (role(&database), Vault::default());
    vault.rotate(&role, "two");
    // The URL has none, or one that is over.
    let url = cluster().url_as(&format!("{role}:one"), &database);
    let options = Options::new().postgres(vault.options());
    let flow = options.retry_for(PATIENCE).open(&url).await;
    let flow = flow.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    let mut consumer = flow.consumer("orders", "billing").await.expect("one");
    let listens = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND query LIKE 'LISTEN%'"
    );
    for password in ["three", "four"] {
        orders.append(Message::new("a")).await.expect("appended");
        next(&mut consumer).await.commit().await.expect("committed");
        eventually("it listens", async || {
            cluster().psql("postgres", &listens).trim() == "1"
        })
        .await;
        vault.rotate(&role, password);
    }
    orders.append(Message::new("a")).await.expect("appended");
    next(&mut consumer).await.commit().await.expect("committed");
    eventually("it listens", async || {
        cluster().psql("postgres", &listens).trim() == "1"
    })
    .await;
    assert!(vault.asked.load(Ordering::Relaxed) >= 6);
}

/// A statement that is late is cancelled over a connection that is new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_late_is_cancelled_with_the_password_of_that_time() {
    let database = cluster().database();
    let (role, vault) = (role(&database), Vault::default());
    vault.rotate(&role, "one");
    let server: PgConnectOptions = cluster().url_as(&role, &database).parse().unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(2);
    let pool = pool.connect_lazy_with(server.clone().password("one"));
    let options = vault.options().statement_timeout(Duration::from_secs(3));
    let storage = PostgresStorage::from_pool(pool.clone(), options).await;
    let storage = storage.expect("it opens");
    let stream = Name::new("orders").unwrap();
    let made = storage.create_stream(&stream, None).await;
    made.expect("a stream");
    vault.rotate(&role, "two");
    pool.set_connect_options(server.password("two"));
    let mut holder = PgConnection::connect(&cluster().url(&database))
        .await
        .unwrap();
    let lock = "BEGIN; LOCK flowstream.streams";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let other = Name::new("others").unwrap();
    let late = storage.create_stream(&other, None).await;
    assert_eq!(late.expect_err("late").kind(), ErrorKind::Unavailable);
    let at_work = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}' AND state = 'active'"
    );
    eventually("it ends on the server", async || {
        cluster().psql("postgres", &at_work).trim() == "0"
    })
    .await;
}

/// Between the change at the server and the one here logins are refused: that passes, where it was an
/// error for good. The first is an error all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_refused_meanwhile_is_tried_again() {
    let database = cluster().database();
    let (role, vault) = (role(&database), Vault::default());
    let url = cluster().url_as(&role, &database);
    // With one connection, none is being made when the others are ended.
    let postgres = vault.options().max_connections(1);
    let options = Options::new().retry_for(PATIENCE).postgres(postgres);
    let refused = options.clone().open(&url).await.expect_err("no password");
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    vault.rotate(&role, "one");
    let flow = options.clone().open(&url).await.expect("it opens");
    let mut orders = flow.producer("orders").await.expect("a producer");
    vault.rotate(&role, "two");
    *vault.password.lock().unwrap() = "one".to_owned();
    let ended = format!(
        "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE usename = '{role}'"
    );
    cluster().psql("postgres", &ended);
    let asked = || vault.asked.load(Ordering::Relaxed);
    let before = asked();
    let sending = tokio::spawn(async move { orders.send("a".into()).await });
    eventually("it was refused some times", async || asked() > before + 2).await;
    *vault.password.lock().unwrap() = "two".to_owned();
    sending.await.unwrap().expect("it is sent");
    let mut orders = flow.producer("orders").await.expect("a producer");

    // The place where passwords are kept is away.
    vault.is_away.store(true, Ordering::Relaxed);
    let hasty = Options::new()
        .retry_for(Duration::ZERO)
        .postgres(vault.options());
    let error = hasty.open(&url).await.expect_err("no credentials");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("the vault is away"), "{shown}");
    cluster().psql("postgres", &ended);
    let before = asked();
    let sending = tokio::spawn(async move { orders.send("b".into()).await });
    eventually("it was asked some times", async || asked() > before + 2).await;
    vault.is_away.store(false, Ordering::Relaxed);
    sending.await.unwrap().expect("it is sent");
    assert_eq!(flow.bounds("orders").await.expect("bounds")[0], 0..2);
}
