//! A pipeline that is killed again and again, and doubles and loses nothing.
//!
//! ```text
//! cargo run --release --example exactly_once
//! cargo run --release --example exactly_once --features postgres -- postgres://postgres@localhost/postgres
//! ```
//!
//! The program starts itself as a worker, which writes numbers into one stream and forwards their
//! squares into another, and kills it (SIGKILL) at some moment; ten times. The last worker comes to the
//! end. Then it reads both streams and prints what it found. Nothing is kept outside of the storage: a
//! worker goes on with what it finds there.
//!
//! Without a URL it uses `redb:exactly_once.redb` in the current directory, which may be deleted
//! afterwards; if it is left, the next run adds as much again.

use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use flowstream::{Delivery, Flowstream, Message};
use futures::{FutureExt, SinkExt, StreamExt, TryStreamExt};

const FROM: &str = "numbers";
const TO: &str = "squares";
const GROUP: &str = "squarers";
const MESSAGES: u64 = 500_000;
const KILLS: u32 = 10;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [worker, url, end] if worker == "--work" => work(url, end.parse()?).await,
        [] => supervise("redb:exactly_once.redb").await,
        [url] => supervise(url).await,
        _ => bail!("give a URL, or nothing"),
    }
}

async fn supervise(url: &str) -> Result<()> {
    let flow = flowstream::open(url).await?;
    flow.producer(FROM).await?;
    let mut end = flow.bounds(FROM).await?[0].end + MESSAGES;
    // An embedded database is for one process at a time.
    flow.close().await?;
    drop(flow);

    let mut kills = 0;
    while kills < KILLS {
        let mut worker = tokio::process::Command::from(worker(url, end)?);
        let mut worker = worker.kill_on_drop(true).spawn()?;
        let moment = Duration::from_millis(20 + random() % 1_200);
        tokio::select! {
            ended = worker.wait() => {
                ensure!(ended?.success(), "a worker failed");
                println!("the worker was done before it could be killed; {MESSAGES} numbers more");
                end += MESSAGES;
                continue;
            }
            () = tokio::time::sleep(moment) => worker.kill().await?,
            _ = tokio::signal::ctrl_c() => bail!("stopped; the same command goes on from here"),
        }
        kills += 1;
        println!("killed {kills} times, this one after {moment:?}");
    }
    let mut last = tokio::process::Command::from(worker(url, end)?);
    let ended = last.kill_on_drop(true).status().await?;
    ensure!(ended.success(), "the last worker failed");

    let flow = flowstream::open(url).await?;
    prove(&flow, end).await?;
    flow.close().await?;
    Ok(())
}

fn worker(url: &str, end: u64) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--work", url, &end.to_string()]);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Any of these steps may be the last.
async fn work(url: &str, end: u64) -> Result<()> {
    let flow = flowstream::open(url).await?;
    let mut numbers = flow.producer(FROM).await?;
    for number in flow.bounds(FROM).await?[0].end..end {
        numbers.feed(number.to_string().into()).await?;
    }
    numbers.close().await?;

    let squares = flow.producer(TO).await?;
    let all_done = reached(flow.clone(), end).map(drop).boxed();
    let consumer = flow.consumer(FROM, GROUP);
    // Where nobody sees that a worker died, its lease has to run out.
    let consumer = consumer
        .lease(Duration::from_secs(1))
        .shutdown_on(all_done)
        .await?;
    // The commit of a number rides in its square: one transaction writes both.
    consumer
        .map_ok(Delivery::into_message)
        .map(|message| square(message?))
        .forward(squares.sink_map_err(anyhow::Error::from))
        .await?;
    flow.close().await?;
    Ok(())
}

fn square(message: Message) -> Result<Message> {
    let number: u64 = std::str::from_utf8(message.body())?.parse()?;
    Ok(message.with_body((number * number).to_string()))
}

/// Waits until the group has done all before this offset.
async fn reached(flow: Flowstream, offset: u64) -> Result<()> {
    while flow.group(FROM, GROUP).await?[0].position() < offset {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn prove(flow: &Flowstream, end: u64) -> Result<()> {
    let (mut squares, mut wrong) = (0, 0);
    loop {
        let page = flow.read(TO, 0, squares).await?;
        if page.is_empty() {
            break;
        }
        for (offset, message) in page {
            let square: u64 = std::str::from_utf8(message.body())?.parse()?;
            wrong += u64::from(square != offset * offset);
            squares = offset + 1;
        }
    }
    let numbers = flow.bounds(FROM).await?.first().context("a partition")?.end;
    let done = flow.group(FROM, GROUP).await?[0].position();
    println!(
        "{numbers} numbers in, {done} done, {squares} squares out; {wrong} missing, doubled or out of order"
    );
    ensure!(
        [numbers, done, squares] == [end; 3] && wrong == 0,
        "that is not exactly once"
    );
    println!("each number has its square, once, in order");
    Ok(())
}

fn random() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_micros()))
}
