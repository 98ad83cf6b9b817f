//! A shop whose tables and events never disagree: each order is written with its event, and each
//! shipment with the group's position, in one transaction of the application.
//!
//! ```text
//! cargo run --example outbox --features postgres -- postgres://postgres@localhost/postgres
//! ```
//!
//! `place_order` is what the handler of a web framework would be: it has a pool and a producer, and
//! knows nothing else. If it fails, is dropped or is killed on its way, there is neither a row nor an
//! event. The other side, which may be another program, ships each order once, whatever happens to
//! it: here it fails now and then. Tables are made in the schema `shop`; run it as often as you like.

use anyhow::{Context, Result, ensure};
use flowstream::postgres::sqlx::{self, AssertSqlSafe, PgPool, Row};
use flowstream::postgres::{self, DeliveryExt, ProducerExt};
use flowstream::{Consumer, Delivery, Flowstream, Message, Producer};
use std::time::Duration;

const ORDERS: usize = 40;

const TABLES: &str = "
    CREATE SCHEMA IF NOT EXISTS shop;
    CREATE TABLE IF NOT EXISTS shop.stock (item text PRIMARY KEY, left_over int NOT NULL CHECK (left_over >= 0));
    CREATE TABLE IF NOT EXISTS shop.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL);
    CREATE TABLE IF NOT EXISTS shop.shipments (order_id bigint NOT NULL, item text NOT NULL);
    INSERT INTO shop.stock VALUES ('soup', 0), ('fish', 0), ('cake', 0) ON CONFLICT (item) DO NOTHING;
    UPDATE shop.stock SET left_over = left_over + 10";

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args()
        .nth(1)
        .context("give the URL of a PostgreSQL database")?;
    let pool = PgPool::connect(&url).await?;
    sqlx::raw_sql(TABLES).execute(&pool).await?;
    let flow = Flowstream::from_pool(pool.clone()).await?;

    let stop = async { drop(tokio::signal::ctrl_c().await) };
    let consumer = flow.consumer("orders", "shipping");
    // What failed comes again soon: it is an example.
    let consumer = consumer
        .redeliver_after(Duration::from_millis(100))
        .shutdown_on(stop);
    let consumer = consumer.await?;
    let control = consumer.control();
    let shipping = tokio::spawn(ship_all(consumer, pool.clone()));

    let mut events = flow.producer("orders").await?;
    let (mut placed, mut refused) = (0, 0);
    for n in 0..ORDERS {
        match place_order(&pool, &mut events, ["soup", "fish", "cake"][n % 3]).await {
            Ok(_) => placed += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{placed} orders placed; {refused} refused, when the shelf was empty");

    // For the example to end: all that was ordered is shipped.
    while flow.group("orders", "shipping").await?[0].lag() > 0 && !shipping.is_finished() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    control.shutdown().await;
    let (shipped, failed) = shipping.await??;
    println!("{shipped} shipped, after {failed} attempts that failed");
    prove(&pool, &flow).await?;
    flow.close().await?;
    Ok(())
}

/// One request. Returns the number of the order.
async fn place_order(pool: &PgPool, events: &mut Producer, item: &str) -> Result<i64> {
    let mut tx = pool.begin().await?;
    let row = sqlx::query("INSERT INTO shop.orders (item) VALUES ($1) RETURNING id")
        .bind(item)
        .fetch_one(&mut *tx)
        .await?;
    let id: i64 = row.get(0);
    let event = Message::new(item.to_owned()).with_key(id.to_string());
    events.append_in(&mut tx, event).await?;
    // Fails when the shelf is empty; then there is no order, and no event.
    sqlx::query("UPDATE shop.stock SET left_over = left_over - 1 WHERE item = $1")
        .bind(item)
        .execute(&mut *tx)
        .await?;
    postgres::commit(tx).await?;
    Ok(id)
}

/// Works until it is told to stop. Counts what it did, and what failed.
async fn ship_all(mut consumer: Consumer, pool: PgPool) -> Result<(u32, u32)> {
    let (mut shipped, mut failed) = (0, 0);
    while let Some(order) = consumer.try_next().await? {
        // One that failed is dropped, and comes again.
        match ship(&order, &pool).await {
            Ok(()) => shipped += 1,
            Err(_) => failed += 1,
        }
    }
    Ok((shipped, failed))
}

async fn ship(order: &Delivery, pool: &PgPool) -> Result<()> {
    let id: i64 = std::str::from_utf8(order.key().context("a number")?)?.parse()?;
    let item = std::str::from_utf8(order.body())?;
    let mut tx = pool.begin().await?;
    sqlx::query("INSERT INTO shop.shipments VALUES ($1, $2)")
        .bind(id)
        .bind(item)
        .execute(&mut *tx)
        .await?;
    order.commit_in(&mut tx).await?;
    // Not every parcel is accepted at once.
    ensure!(
        !order.offset().is_multiple_of(5) || order.attempt() > 1,
        "the line was busy"
    );
    postgres::commit(tx).await?;
    Ok(())
}

/// The tables and the log say the same.
async fn prove(pool: &PgPool, flow: &Flowstream) -> Result<()> {
    let count = async |sql: &str| -> Result<i64> {
        let row = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .fetch_one(pool)
            .await?;
        Ok(row.get(0))
    };
    let orders = count("SELECT count(*) FROM shop.orders").await?;
    let shipments = count("SELECT count(*) FROM shop.shipments").await?;
    let different = count("SELECT count(DISTINCT order_id) FROM shop.shipments").await?;
    let group = &flow.group("orders", "shipping").await?[0];
    println!(
        "in all: {orders} orders, {} events, {} of them done, {shipments} shipments of {different} orders",
        group.bounds.end,
        group.position(),
    );
    if group.lag() == 0 {
        let counts = [
            group.bounds.end as i64,
            group.position() as i64,
            shipments,
            different,
        ];
        ensure!(counts == [orders; 4], "they disagree");
        println!("each order has one event and one shipment");
    }
    Ok(())
}
