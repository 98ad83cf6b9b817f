//! Sends lines into a stream, and works on them at the same time.
//!
//! ```text
//! cargo run --release --example quickstart -- [FILE|-] [--storage URL]
//! ```
//!
//! Stop it with Ctrl-C or `kill -9` whenever you like, and start it again: both sides go on where
//! they were. Each line of a file is in the stream exactly once, and each reaches the group at
//! least once. Another file adds its lines behind those that are there.
//!
//! On PostgreSQL the same program runs with `--features postgres` and a URL of a database:
//!
//! ```text
//! cargo run --release --features postgres --example quickstart -- --storage postgres://me@localhost/mine
//! ```
//!
//! `main.rs` is what to read; `input.rs` makes messages of lines, `resume.rs` finds in the stream
//! how far a file was sent, and `progress.rs` shows what goes on.

mod input;
mod progress;
mod resume;

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hasher};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flowstream::{Consumer, Delivery, Flowstream, Options, Producer};
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt, StreamExt, TryStreamExt};

use input::{Input, Lines, Source};
use progress::{Progress, grouped};

const STREAM: &str = "lines";
const GROUP: &str = "workers";

/// How many lines are in work at once. All that are done when a commit is written share the write.
const AT_ONCE: usize = 16 * 1024;

const USAGE: &str = "\
usage: quickstart [FILE|-] [--storage URL]

Sends the lines of FILE into a stream, and works on them at the same time. Stopped and started
again, it goes on where it was.

  FILE           the file to send; - is the standard input; without it, the sources of this crate
  --storage URL  redb:PATH, postgres://USER@HOST/DATABASE (built with --features postgres), or
                 memory: for nothing that stays; redb:quickstart.redb by default

exit code: 0 done, 1 an error, 2 a bad argument, 130 stopped by Ctrl-C";

#[tokio::main]
async fn main() -> ExitCode {
    let (input, url) = match parse(std::env::args_os().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("Error: {error:#}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(input, &url).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(input: Input, url: &str) -> Result<ExitCode> {
    let sources = input.sources()?;
    let flow = Options::new()
        .max_message_bytes(input::MAX_LINE + input::MAX_HEADERS)
        .open(url)
        .await
        .with_context(|| format!("cannot open {}", shown(url)))?;
    let stop = on_ctrl_c().await;

    let producer = flow.producer(STREAM).await?;
    let consumer = flow.consumer(STREAM, GROUP).shutdown_on(stop.clone());
    let consumer = consumer.await?;
    let control = consumer.control();

    let (messages, position) = standing(&flow).await?;
    println!(
        "{}: the stream has {} messages, the group is at {}",
        shown(url),
        grouped(messages),
        grouped(position)
    );
    let sources = resume::find(&flow, sources).await?;
    resume::describe(&sources);

    let progress = Progress::new(&sources, messages - position);
    let ended = tokio::try_join!(
        async {
            send(producer, sources, &progress, &stop).await?;
            tokio::select! {
                done = all_done(&flow) => done?,
                () = stop.clone() => {}
            }
            // The stream of the consumer ends with this, and so does `work`.
            control.shutdown().await;
            Ok(())
        },
        // A task of its own, and so a core of its own.
        async { tokio::spawn(work(consumer, progress.clone())).await? },
    );
    // However it ended: commits are written, and the next process gets the lease at once.
    control.shutdown().await;
    progress.finish();
    let stopped = stop.peek().is_some();
    if stopped {
        println!("stopped; the same command goes on from here");
    }
    let now = standing(&flow).await;
    if let Ok((messages, position)) = now {
        progress.summary();
        println!("stream: {messages} messages, group: position {position}");
    }
    flow.close().await?;
    ended?;
    now?;
    Ok(ExitCode::from(if stopped { 130 } else { 0 }))
}

/// The URL as others may see it: without the user's name and password.
fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let place = rest.rsplit('@').next().unwrap_or_default();
            let place = place.split('?').next().unwrap_or_default();
            format!("{scheme}://{place}")
        }
        None => url.to_owned(),
    }
}

/// Sends lines until there are no more, or until it is stopped. They are durable when it returns.
async fn send(
    producer: Producer,
    sources: Vec<Source>,
    progress: &Progress,
    stop: &Stop,
) -> Result<()> {
    let (lines, reader) = Lines::read(sources, progress.clone());
    // `forward` fills the sink, flushes it when no line waits, and closes it at the end.
    lines
        .take_until(stop.clone())
        .inspect(|line| progress.sent(line.body().len()))
        .map(Ok)
        .forward(producer)
        .await?;
    progress.all_sent();
    // Stopped, the reader may wait for a line for ever.
    if stop.peek().is_some() {
        return Ok(());
    }
    match reader.join() {
        Ok(read) => read,
        Err(_) => bail!("the thread that reads lines has panicked"),
    }
}

/// Works on many lines at once and commits each when it is done, in whatever order.
async fn work(consumer: Consumer, progress: Progress) -> Result<()> {
    let mut done = consumer.map_ok(work_on).try_buffer_unordered(AT_ONCE);
    while let Some(line) = done.try_next().await? {
        progress.worked(&line);
    }
    progress.all_worked();
    Ok(())
}

/// What is known of a line.
struct Worked {
    bytes: u64,
    words: u64,
    hash: u64,
}

async fn work_on(delivery: Delivery) -> flowstream::Result<Worked> {
    let line = delivery.body();
    if line.len() > 100 {
        // Short lines overtake a long one.
        tokio::task::yield_now().await;
    }
    let words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let mut hasher = DefaultHasher::new();
    hasher.write(line);
    let worked = Worked {
        bytes: line.len() as u64,
        words: words.count() as u64,
        hash: hasher.finish(),
    };
    match delivery.commit().await {
        // Another process has the lease now, and gets this line again.
        Err(error) if error.is_fenced() => Ok(worked),
        committed => committed.map(|()| worked),
    }
}

/// Waits until the group, in whatever process, has done all that is in the stream.
async fn all_done(flow: &Flowstream) -> Result<()> {
    loop {
        let (messages, position) = standing(flow).await?;
        if position >= messages {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many messages are in the stream, and before which of them the group has done all.
async fn standing(flow: &Flowstream) -> Result<(u64, u64)> {
    let group = flow.group(STREAM, GROUP).await?;
    let messages = group.iter().map(|partition| partition.bounds.end).sum();
    let position = group.iter().map(|partition| partition.position()).sum();
    Ok((messages, position))
}

/// Resolves with the first Ctrl-C.
type Stop = Shared<BoxFuture<'static, ()>>;

/// From here on, Ctrl-C ends the process only if it comes twice.
async fn on_ctrl_c() -> Stop {
    let stop = async {
        if tokio::signal::ctrl_c().await.is_err() {
            // There is no such signal here.
            return std::future::pending().await;
        }
        eprintln!("stopping; once more ends it at once");
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(130);
            }
        });
    };
    let stop = stop.boxed().shared();
    // The first poll takes the signal over.
    let _ = futures::poll!(stop.clone());
    stop
}

/// The input and the storage; `None` if help is wanted.
fn parse(mut args: impl Iterator<Item = OsString>) -> Result<Option<(Input, String)>> {
    let (mut input, mut url) = (None, None);
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy();
        match &*text {
            "-h" | "--help" => return Ok(None),
            "--storage" => {
                let value = args.next().context("--storage needs a URL")?;
                url = Some(value.to_string_lossy().into_owned());
            }
            _ if text.starts_with("--storage=") => {
                url = text.split_once('=').map(|(_, value)| value.to_owned());
            }
            _ if text.len() > 1 && text.starts_with('-') => bail!("unknown option {text}"),
            _ if input.is_some() => bail!("one FILE at a time: {text} is too many"),
            "-" => input = Some(Input::Stdin),
            "" => bail!("FILE is empty"),
            _ => input = Some(Input::File(arg.into())),
        }
    }
    let url = url.unwrap_or_else(|| "redb:quickstart.redb".to_owned());
    Ok(Some((input.unwrap_or(Input::Crate), url)))
}
