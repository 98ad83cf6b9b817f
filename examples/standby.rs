//! Consumers of one group: one works, and when it stops or dies another goes on.
//!
//! ```text
//! cargo run --example standby                                  two cooks in this process
//! cargo run --example standby --features postgres -- URL       one, of as many processes as you like
//! ```
//!
//! On PostgreSQL, run it in two terminals with the same URL, and kill the one that works: with Ctrl-C
//! it hands over, after `kill -9` the other notices within a second. Each process also sends an order
//! a second. They go home after two minutes.
//!
//! The epoch grows with each change of owner. Hand it on to systems outside of the storage: what
//! arrives with a smaller one than was seen before comes from a consumer that was replaced.

use std::time::Duration;

use anyhow::Result;
use flowstream::{Consumer, Control, Flowstream, Producer, Status};
use futures::SinkExt;
use tokio::sync::mpsc;

const STREAM: &str = "orders";
const GROUP: &str = "kitchen";

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1);
    let url = url.as_deref().unwrap_or("memory:");
    let flow = flowstream::open(url).await?;
    if url.starts_with("postgres") {
        one_of_many(&flow).await?;
    } else {
        two_in_this_process(&flow).await?;
    }
    let group = &flow.group(STREAM, GROUP).await?[0];
    println!(
        "{STREAM}: {} messages; {GROUP}: position {}, epoch {}",
        group.bounds.end,
        group.progress.position(),
        group.epoch
    );
    flow.close().await?;
    Ok(())
}

/// Works as soon as no other process does, until somebody ends it.
async fn one_of_many(flow: &Flowstream) -> Result<()> {
    let name = format!("cook {}", std::process::id());
    let (done, _) = mpsc::unbounded_channel();
    let (cook, work) = cook(&name, flow, done).await?;
    let mut orders = flow.producer(STREAM).await?;
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for number in 1..=120 {
        tokio::select! {
            _ = seconds.tick() => {}
            _ = cook.wait_for(|status| status == Status::Closed) => break,
        }
        orders
            .send(format!("order {number} of {name}").into())
            .await?;
    }
    cook.shutdown().await;
    println!("{name} did {}", work.await??);
    Ok(())
}

async fn two_in_this_process(flow: &Flowstream) -> Result<()> {
    let (done, mut served) = mpsc::unbounded_channel();

    // A consumer claims the lease once it is polled, so Anna gets it.
    let (anna, anna_works) = cook("Anna", flow, done.clone()).await?;
    anna.wait_for(|status| status.is_active() || status == Status::Closed)
        .await;
    let (bert, bert_works) = cook("Bert", flow, done).await?;
    bert.wait_for(|status| status != Status::Idle).await;

    let mut orders = flow.producer(STREAM).await?;
    serve(&["soup", "fish", "cake"], &mut orders, &mut served).await?;
    // Clean: what Anna has in hand is finished and committed, then Bert gets the lease, at once.
    anna.shutdown().await;
    serve(&["tea", "milk", "wine"], &mut orders, &mut served).await?;
    bert.shutdown().await;

    println!(
        "Anna did {}, Bert did {}",
        anna_works.await??,
        bert_works.await??
    );
    Ok(())
}

/// Sends each order when the last one is done, as long as somebody works.
async fn serve(
    menu: &[&'static str],
    orders: &mut Producer,
    served: &mut mpsc::UnboundedReceiver<u64>,
) -> Result<()> {
    for order in menu {
        if !served.is_closed() {
            orders.send((*order).into()).await?;
            served.recv().await;
        }
    }
    Ok(())
}

type Work = tokio::task::JoinHandle<Result<u32>>;

/// Starts a consumer, and tells what becomes of it.
async fn cook(
    name: &str,
    flow: &Flowstream,
    done: mpsc::UnboundedSender<u64>,
) -> Result<(Control, Work)> {
    let ctrl_c = tokio::signal::ctrl_c();
    let consumer = flow.consumer(STREAM, GROUP).shutdown_on(ctrl_c).await?;
    let control = consumer.control();
    let (name, reported) = (name.to_owned(), control.clone());
    let work = async move { tokio::join!(work(&name, consumer, done), report(&name, reported)).0 };
    Ok((control, tokio::spawn(work)))
}

async fn work(name: &str, mut consumer: Consumer, done: mpsc::UnboundedSender<u64>) -> Result<u32> {
    let mut count = 0;
    while let Some(delivery) = consumer.try_next().await? {
        let (offset, epoch) = (delivery.offset(), delivery.epoch());
        let order = String::from_utf8_lossy(delivery.body()).into_owned();
        delivery.commit().await?;
        println!("{name} did {order} (offset {offset}, epoch {epoch})");
        count += 1;
        // Nobody listens any more once the evening is over.
        let _ = done.send(offset);
    }
    Ok(count)
}

async fn report(name: &str, control: Control) {
    let mut last = control.status();
    while last != Status::Closed {
        last = control.wait_for(|status| status != last).await;
        match last {
            Status::Active { epoch } => println!("{name} has the lease, epoch {epoch}"),
            Status::Standby => println!("{name} stands by"),
            Status::Closed => println!("{name} has stopped"),
            other => println!("{name} is {other:?}"),
        }
    }
}
