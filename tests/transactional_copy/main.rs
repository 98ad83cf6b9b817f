//! A stream that is copied by three pipelines in a row, `in` to `a` to `b` to `out`, while their
//! processes are killed, stopped and continued, and shut down: at the end `out` is `in`.
//!
//! Each pipeline is `consumer.map_ok(Delivery::into_message).forward(producer)`, in two processes or
//! more. Harm comes to them at any moment, and at each step: before a call of the storage, and after it
//! was applied but before anybody saw its answer. `TRANSACTIONAL_COPY_MESSAGES` says how many messages
//! there are at least, 10,000 without it.
//!
//! Without the fence, or with positions that are written apart from the messages, it fails.

#![cfg(all(unix, feature = "postgres"))]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use copied::Copied;
use flowstream::{Flowstream, Message};
use hop::{Hop, Round, Tally};
use postgres_support::Cluster;
use process_support::history::{PATIENCE, What};
use process_support::worker::random;
use steps::{Call, Harm, Side, Step};
use tokio::runtime::Runtime;

mod copied;
mod hop;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../process_support/mod.rs"]
mod process_support;
mod steps;
mod worker;

/// Short, so that a process that stops is soon replaced.
const LEASE: Duration = Duration::from_secs(1);

/// Not a test: what the tests start and kill.
#[test]
fn child() {
    worker::run_if_asked();
}

#[test]
fn a_chain_of_pipelines_copies_each_message_once_in_order_whatever_happens_to_its_processes() {
    let wanted = std::env::var("TRANSACTIONAL_COPY_MESSAGES");
    let wanted = wanted.map_or(10_000, |wanted| wanted.parse().expect("a number"));
    let world = World::new(&["in", "a", "b", "out"]);
    let began = Instant::now();
    let hops = world.names.windows(2);
    let hops: Vec<Hop> = hops
        .map(|pair| Hop::start(&world.url(), pair[0], pair[1], LEASE))
        .collect();
    let sent = AtomicUsize::new(0);
    let working = AtomicUsize::new(hops.len());
    let hops = std::thread::scope(|scope| {
        let running: Vec<_> = hops
            .into_iter()
            .enumerate()
            .map(|(number, hop)| {
                let (sent, working) = (&sent, &working);
                scope.spawn(move || {
                    let _done = Done(working);
                    torment(hop, number, || sent.load(Ordering::Relaxed) < wanted)
                })
            })
            .collect();
        // Until all have had their share: there has to be something to copy at each step.
        while sent.load(Ordering::Relaxed) < wanted || working.load(Ordering::Relaxed) > 0 {
            let from = sent.load(Ordering::Relaxed);
            let count = 1 + random(20) as usize;
            world.send(from..from + count);
            sent.fetch_add(count, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(10));
        }
        let hops = running.into_iter().map(|hop| hop.join());
        hops.map(|hop| hop.expect("a hop that did not panic"))
            .collect::<Vec<Hop>>()
    });
    let copied = world.wait();
    let mut tally = Tally::default();
    for hop in hops {
        tally += hop.finish();
    }
    println!(
        "{} messages through {} hops in {:?}: {tally:?}",
        copied.input.len(),
        copied.positions.len(),
        began.elapsed(),
    );
    copied.check().unwrap();
    println!("none doubled, none lost, none out of order");
    let zombies = tally.paused + tally.paused_at_step;
    assert!(tally.killed > 0 && tally.died > 0 && tally.stopped > 0 && zombies > 0);
    assert!(tally.zombies_refused > 0, "some of them tried");
}

/// Each hop begins elsewhere, so that they have done everything between them.
fn torment(mut hop: Hop, number: usize, goes_on: impl Fn() -> bool) -> Hop {
    let rounds = Round::all();
    let share = rounds.len().div_ceil(3);
    let rounds = rounds.iter().cycle().skip(number * share);
    for (count, round) in rounds.enumerate() {
        if count >= share && !goes_on() {
            break;
        }
        hop.run(*round);
    }
    hop
}

/// Says so also if the hop panics.
struct Done<'a>(&'a AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const COUNT: usize = 500;

/// Its owner stops just before it writes, and goes on when all is copied.
#[test]
fn without_the_fence_a_zombie_doubles_messages() {
    let world = World::new(&["in", "out"]);
    let found = zombie(&world);
    assert_eq!(found, Ok(()), "with the fence");

    let world = World::new(&["in", "out"]);
    let (fence, database) = (
        "l.owner = c_owners[c.ord] AND l.epoch = c_epochs[c.ord]",
        &world.database,
    );
    let source = "SELECT pg_get_functiondef('flowstream.begin_append'::regproc)";
    let source = cluster().psql(database, source);
    assert!(source.contains(fence), "{source}");
    cluster().psql(database, &source.replace(fence, "true"));
    let wrong = zombie(&world).expect_err("it doubles");
    println!("without the fence: {wrong}");
    assert!(!wrong.starts_with("0 doubled"), "{wrong}");
}

fn zombie(world: &World) -> Result<(), String> {
    let mut hop = Hop::start(&world.url(), "in", "out", LEASE);
    let step = Step {
        call: Call::Append,
        nth: 1,
        side: Side::Before,
        harm: Harm::Pause,
    };
    let owner = first_owner(world, &hop);
    let mark = hop.arm(owner, step);
    world.send(1..COUNT);
    assert!(hop.is_reached(owner, step, mark), "it is about to write");
    hop.go_on(owner, || drop(world.wait()));
    hop.wait(owner, mark, What::Left);
    let copied = world.wait();
    hop.finish();
    copied.check()
}

/// Its owner dies between the two writes.
#[test]
fn with_the_position_written_apart_messages_are_doubled() {
    let world = World::new(&["in", "out"]);
    let mut hop = Hop::start_apart(&world.url(), "in", "out", LEASE);
    let step = Step {
        call: Call::Commit,
        nth: 1,
        side: Side::Before,
        harm: Harm::Die,
    };
    let owner = first_owner(&world, &hop);
    let mark = hop.arm(owner, step);
    world.send(1..COUNT);
    assert!(hop.is_reached(owner, step, mark), "it is about to commit");
    hop.wait(owner, mark, What::Gone);
    let copied = world.wait();
    drop(hop);
    let wrong = copied.check().expect_err("it doubles");
    println!("apart: {wrong}");
    assert!(!wrong.starts_with("0 doubled"), "{wrong}");
}

/// The active process, once it has copied the first message, which is sent here.
fn first_owner(world: &World, hop: &Hop) -> u32 {
    world.send(0..1);
    let owner = hop.owner_besides(0);
    drop(world.wait());
    owner
}

/// A database with streams that are copied one into the next.
struct World {
    database: String,
    names: Vec<&'static str>,
    runtime: Runtime,
    flow: Flowstream,
}

impl World {
    fn new(names: &[&'static str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let database = cluster().database();
        let flow = runtime.block_on(flowstream::open(&cluster().url(&database)));
        let flow = flow.expect("it opens");
        for name in names {
            let made = runtime.block_on(flow.create_stream(name, 1));
            made.expect("a stream");
        }
        Self {
            database,
            names: names.to_vec(),
            runtime,
            flow,
        }
    }

    fn url(&self) -> String {
        cluster().url(&self.database)
    }

    /// Appends these numbers to the first stream.
    fn send(&self, numbers: std::ops::Range<usize>) {
        let batch: Vec<Message> = numbers.map(|n| Message::new(n.to_string())).collect();
        self.runtime.block_on(async {
            let mut producer = self.flow.producer(self.names[0]).await.expect("a producer");
            producer.append(batch).await.expect("appended");
        });
    }

    /// Waits until each group has come to the end of its log, the first one first: what became of it.
    fn wait(&self) -> Copied {
        self.runtime.block_on(async {
            let mut positions = Vec::new();
            for name in &self.names[..self.names.len() - 1] {
                positions.push(self.wait_for(name).await);
            }
            let last = self.names[self.names.len() - 1];
            Copied {
                input: self.read(self.names[0]).await,
                output: self.read(last).await,
                positions,
            }
        })
    }

    async fn wait_for(&self, name: &str) -> (u64, u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.flow.group(name, "copy").await.expect("a group");
            let (position, end) = (state[0].position(), state[0].bounds.end);
            if position == end {
                return (position, end);
            }
            assert!(
                Instant::now() < deadline,
                "{name} is at {position} of {end}: {state:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn read(&self, name: &str) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let page = self.flow.read(name, 0, numbers.len() as u64).await;
            let page = page.expect("a page");
            if page.is_empty() {
                return numbers;
            }
            numbers.extend(page.iter().map(|(_, message)| number(message)));
        }
    }
}

fn number(message: &Message) -> u64 {
    let text = std::str::from_utf8(message.body()).expect("a text");
    text.parse().expect("a number")
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start_with(&[("max_connections", "200")]))
}
