//! Transactions of the application.

use flowstream::postgres::sqlx::{self, PgPool, postgres::PgTransaction};
use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::{Consumer, Delivery, Flowstream, Message, Producer};

use crate::listing::Listing;
use crate::refused;
use crate::servers::{cluster, listing, open};
use crate::support::*;

/// For tests: a table with a key that is looked at late.
const TABLE: &str = "CREATE TABLE shop (card text UNIQUE DEFERRABLE INITIALLY DEFERRED)";

async fn execute(tx: &mut PgTransaction<'_>, sql: &'static str) -> sqlx::Result<()> {
    sqlx::query(sql).execute(&mut **tx).await.map(drop)
}

struct Shop {
    listing: Listing,
    database: String,
    pool: PgPool,
    flow: Flowstream,
    producer: Producer,
    consumer: Consumer,
}

impl Shop {
    async fn new(section: &'static str) -> Self {
        let database = cluster().database();
        let url = cluster().url(&database);
        cluster().psql(&database, TABLE);
        let flow = open(&url).await.expect("it opens");
        let mut producer = flow.producer("orders").await.expect("a producer");
        let messages: Vec<Message> = (0..9).map(|n| Message::new(n.to_string())).collect();
        producer.append(messages).await.expect("appended");
        let consumer = flow.consumer("orders", "billing").await;
        Self {
            listing: listing(section, &database),
            database,
            pool: PgPool::connect(&url).await.unwrap(),
            flow,
            producer,
            consumer: consumer.expect("a consumer"),
        }
    }

    async fn begin(&self) -> PgTransaction<'static> {
        self.pool.begin().await.unwrap()
    }

    async fn next(&mut self) -> Delivery {
        next(&mut self.consumer).await
    }
}

#[tokio::test]
async fn appends() {
    let mut shop = Shop::new("Appends in a transaction of the application").await;
    let secret = || Message::new("secret-body");
    let memory = world().await;
    let mut other = memory.flow.producer("orders").await.unwrap();
    let mut tx = shop.begin().await;
    let appended = other.append_in(&mut tx, secret()).await;
    shop.listing
        .refused("append_in with another storage", appended);
    let relayed = shop.next().await.into_message();
    let relayed = shop.producer.append_in(&mut tx, relayed).await;
    let what = "append_in of a message that carries a commit";
    shop.listing.refused(what, relayed);
    memory.faulty.set(Call::Append, Fault::Doubt);
    let error = refused(other.append(secret()).await);
    let in_doubt = error.unsent;
    let appended = shop.producer.append_in(&mut tx, in_doubt).await;
    shop.listing
        .refused("append_in of a batch in doubt", appended);
    let failed = execute(&mut tx, "SELECT 1 / 0").await;
    failed.expect_err("it fails");
    let appended = shop.producer.append_in(&mut tx, secret()).await;
    let what = "append_in after a statement that failed";
    shop.listing.refused(what, appended);

    let elsewhere = PgPool::connect(&cluster().url("postgres")).await.unwrap();
    let mut tx = elsewhere.begin().await.unwrap();
    let appended = shop.producer.append_in(&mut tx, secret()).await;
    shop.listing
        .refused("append_in in another database", appended);
    shop.listing.compare();
}

#[tokio::test]
async fn commits() {
    let mut shop = Shop::new("Commits of a transaction of the application").await;
    let mut tx = shop.begin().await;
    let failed = execute(&mut tx, "SELECT 1 / 0").await;
    failed.expect_err("it fails");
    let committed = shop.next().await.commit_in(&mut tx).await;
    let what = "commit_in after a statement that failed";
    shop.listing.refused(what, committed);
    let committed = postgres::commit(tx).await;
    let what = "commit after a statement that failed";
    shop.listing.refused(what, committed);

    let mut tx = shop.begin().await;
    for _ in 0..2 {
        let sold = execute(&mut tx, "INSERT INTO shop VALUES ('hunter2')").await;
        sold.unwrap();
    }
    let committed = postgres::commit(tx).await;
    let what = "commit where a constraint does not hold";
    shop.listing.refused(what, committed);

    let mut tx = shop.begin().await;
    execute(&mut tx, "SELECT 1").await.unwrap();
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE state = 'idle in transaction' AND datname = current_database()";
    cluster().psql(&shop.database, end);
    let committed = postgres::commit(tx).await;
    shop.listing
        .refused("commit on a connection that broke", committed);
    shop.listing.compare();
}

#[tokio::test]
async fn deliveries() {
    let mut shop = Shop::new("Deliveries in a transaction of the application").await;
    let (delivery, later) = (shop.next().await, shop.next().await);
    let (mut first, mut second) = (shop.begin().await, shop.begin().await);
    delivery.commit_in(&mut first).await.expect("it stands");
    postgres::commit(first).await.expect("it commits");
    let taken = delivery.commit_in(&mut second).await;
    let what = "commit_in of what another one has done";
    shop.listing.refused(what, taken);
    second.rollback().await.unwrap();

    let mut tx = shop.begin().await;
    later.commit_in(&mut tx).await.expect("it stands");
    let evicted = shop.flow.evict("orders", "billing").await;
    evicted.expect("evicted");
    let committed = postgres::commit(tx).await;
    shop.listing
        .refused("commit after the lease was lost", committed);
    let mut tx = shop.begin().await;
    let fenced = later.commit_in(&mut tx).await;
    shop.listing
        .refused("commit_in after the lease was lost", fenced);
    tx.rollback().await.unwrap();
    let mut tx = shop.begin().await;
    let set = execute(&mut tx, "SET CONSTRAINTS ALL IMMEDIATE").await;
    set.unwrap();
    let fenced = later.commit_in(&mut tx).await;
    let what = "commit_in after that, where constraints are looked at at once";
    shop.listing.refused(what, fenced);
    shop.listing.compare();
}
