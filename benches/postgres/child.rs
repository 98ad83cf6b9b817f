//! Processes beside this one: the benchmark again, told by its arguments what to be.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child as Process, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flowstream::Flowstream;
use futures::future::join_all;
use sqlx::Row;
use sqlx::postgres::PgListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::produce::flush_for;
use crate::raw::{connect, insert_blob};
use crate::support::{Flavour, SIZE, noise};

const MARK: &str = "--child";

/// What a process does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Role {
    /// Produces through the Sink when told to.
    Produce,
    /// Writes blobs when told to.
    Blobs,
    /// Consumes, and says how long each message was under way.
    Consume,
    /// Listens, fetches, and says the same of blobs.
    Hear,
    /// Has so many consumers with nothing to do, and says how many bytes each takes.
    Idle,
}

impl Role {
    const ALL: [Self; 5] = [
        Self::Produce,
        Self::Blobs,
        Self::Consume,
        Self::Hear,
        Self::Idle,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Blobs => "blobs",
            Self::Consume => "consume",
            Self::Hear => "hear",
            Self::Idle => "idle",
        }
    }
}

/// Another process. It ends when this is dropped.
pub(crate) struct Child {
    process: Process,
    input: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Child {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(role: Role, url: &str, stream: &str) -> Self {
        let program = std::env::current_exe().expect("the name of this program");
        let mut process = Command::new(program)
            .args([MARK, role.name(), url, stream])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let (sender, lines) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut child = Self {
            process,
            input,
            lines,
        };
        let ready = child.lines.blocking_recv();
        assert_eq!(ready.as_deref(), Some("ready"), "{role:?}");
        child
    }

    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is not closed");
        writeln!(input, "{line}").expect("a process that listens");
    }

    pub(crate) fn hear(&mut self) -> f64 {
        let line = self.lines.blocking_recv();
        line.and_then(|line| line.parse().ok()).expect("a number")
    }

    pub(crate) async fn heard(&mut self) -> f64 {
        let line = self.lines.recv().await;
        line.and_then(|line| line.parse().ok()).expect("a number")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.input.take());
        // One that waits for the server does not see that; its own id, so nobody else's.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether this process is one.
pub(crate) fn is_one() -> bool {
    std::env::args().nth(1).as_deref() == Some(MARK)
}

pub(crate) fn run() {
    let mut args = std::env::args().skip(2);
    let mut next = || args.next().expect("an argument");
    let (role, url, stream) = (next(), next(), next());
    let role = Role::ALL.into_iter().find(|known| known.name() == role);
    let runtime = Flavour::Multi.runtime();
    match role.expect("a role") {
        Role::Produce => {
            let flow = runtime.block_on(flowstream::open(&url));
            let flow = flow.expect("a storage");
            on_command(|window| {
                let (flow, stream) = (flow.clone(), stream.clone());
                crate::support::run(&runtime, async move {
                    flush_for(&flow, &stream, [1_000, SIZE], window).await
                })
            });
        }
        Role::Blobs => {
            let mut connection = runtime.block_on(connect(&url));
            let blob = noise(1_000 * SIZE);
            on_command(|window| {
                let began = Instant::now();
                let mut sent = 0;
                runtime.block_on(async {
                    while began.elapsed() < window {
                        insert_blob(&mut connection, &blob).await;
                        sent += 1_000;
                    }
                });
                sent
            });
        }
        Role::Consume => crate::support::run(&runtime, async move { consume(&url, stream).await }),
        Role::Hear => crate::support::run(&runtime, async move { hear(&url, &stream).await }),
        Role::Idle => crate::support::run(&runtime, async move { idle(&url, &stream).await }),
    }
}

/// Runs a window of so many milliseconds for each line, and says how many messages a second.
fn on_command(mut window: impl FnMut(Duration) -> usize) {
    say("ready");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let millis = line.parse().expect("milliseconds");
        let began = Instant::now();
        let sent = window(Duration::from_millis(millis));
        say(sent as f64 / began.elapsed().as_secs_f64());
    }
}

async fn consume(url: &str, stream: String) {
    let flow = flowstream::open(url).await.expect("a storage");
    let consumer = flow.consumer(stream, "g").await;
    let mut consumer = consumer.expect("a consumer");
    let control = consumer.control();
    tokio::spawn(async move {
        control.wait_for(|status| status.is_active()).await;
        say("ready");
    });
    while let Some(delivery) = consumer.try_next().await.expect("a delivery") {
        say(under_way(delivery.body()));
        delivery.ack();
    }
}

async fn hear(url: &str, channel: &str) {
    let mut connection = connect(url).await;
    let mut listener = PgListener::connect(url).await.expect("a connection");
    listener.listen(channel).await.expect("LISTEN");
    let mut last = 0_i64;
    say("ready");
    loop {
        listener.recv().await.expect("a notification");
        let query = sqlx::query("SELECT id, body FROM blobs WHERE id > $1 ORDER BY id");
        let rows = query.bind(last).fetch_all(&mut connection).await;
        for row in rows.expect("blobs") {
            last = row.get(0);
            say(under_way(row.get(1)));
        }
    }
}

async fn idle(url: &str, count: &str) {
    let count: usize = count.parse().expect("a number");
    let flow = flowstream::open(url).await.expect("a storage");
    // One before the others: what all of them share is not counted.
    let first = idle_consumer(&flow, count).await;
    let before = resident();
    let mut waiting = vec![first];
    // One after the other. At once, starting takes three times as much, which the allocator keeps.
    for number in 0..count {
        waiting.push(idle_consumer(&flow, number).await);
    }
    let after = resident();
    say("ready");
    say((after - before) / count as f64);
    drop(join_all(waiting).await);
}

/// Waits for messages on a stream of its own.
async fn idle_consumer(flow: &Flowstream, number: usize) -> JoinHandle<()> {
    let consumer = flow.consumer(format!("s{number}"), "g").await;
    let mut consumer = consumer.expect("a consumer");
    let control = consumer.control();
    let waiting = tokio::spawn(async move {
        consumer.next().await;
    });
    control.wait_for(|status| status.is_active()).await;
    waiting
}

/// What the process takes of the memory, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_ascii_whitespace().nth(1));
    kilobytes.map_or(f64::NAN, |count| count.parse().unwrap_or(f64::NAN)) * 1024.0
}

/// A body that says when it was made.
pub(crate) fn dated() -> [u8; SIZE] {
    let mut body = [b'x'; SIZE];
    body[..8].copy_from_slice(&now().to_le_bytes());
    body
}

/// The age of such a body, in microseconds.
fn under_way(body: &[u8]) -> f64 {
    let began = body.first_chunk().expect("a dated body");
    now().saturating_sub(u64::from_le_bytes(*began)) as f64 / 1e3
}

/// The clock that processes share.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("a clock that is set").as_nanos() as u64
}

fn say(line: impl std::fmt::Display) {
    // Nobody listens any more: the end.
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}
