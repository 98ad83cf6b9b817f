//! Owners that go in one way or another, again and again, and who takes over from them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flowstream::Flowstream;
use tokio::runtime::Runtime;

use super::check::{Story, Summary};
use super::history::{Event, History, PATIENCE, What};
use super::producing::Producing;
use super::{Job, Process, ledger};
use crate::postgres_support::Cluster;
use crate::postgres_support::proxy::{Network, Proxy};

/// A database, as this process sees it.
pub struct World<'a> {
    pub cluster: &'a Cluster,
    pub database: String,
    pub flow: Flowstream,
    pub runtime: Runtime,
}

impl<'a> World<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let database = cluster.database();
        let flow = runtime.block_on(flowstream::open(&cluster.url(&database)));
        ledger::keep(cluster, &database);
        Self {
            cluster,
            database,
            flow: flow.expect("it opens"),
            runtime,
        }
    }

    pub fn url(&self) -> String {
        self.cluster.url(&self.database)
    }

    pub fn produce(&self, stream: &str, interval: Duration, history: &History) -> Producing {
        Producing::start(self.runtime.handle(), &self.flow, stream, interval, history)
    }

    /// Ends a stream, and waits until a group has done all of it: what became of it.
    pub fn finish(&self, producing: Producing, history: &History, job: &Job, group: &str) -> Story {
        let sends = self.runtime.block_on(producing.finish());
        let end = sends.len() as u64;
        self.wait_until_done(&job.stream, group, end);
        self.story(history, job, group, sends)
    }

    /// Waits until a group has done all before this offset.
    pub fn wait_until_done(&self, stream: &str, group: &str, end: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let look = self.flow.group(stream, group);
            let state = self.runtime.block_on(look).expect("a group").remove(0);
            if state.position() == end {
                break;
            }
            let is_late = Instant::now() > deadline;
            assert!(!is_late, "{group} is not done with {end}: {state:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn story(&self, history: &History, job: &Job, group: &str, sends: Vec<Duration>) -> Story {
        let mut events = history.events();
        events.retain(|event| event.group == group);
        Story {
            events,
            writes: ledger::writes(self.cluster, &self.database, &job.stream, group),
            end: sends.len() as u64,
            in_flight: job.in_flight,
            sends,
        }
    }
}

/// How an owner goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A shutdown.
    Stop,
    /// Its consumer is dropped.
    Drop,
    /// A handler panics, and the consumer is dropped on the way.
    Panic,
    /// Its runtime is dropped; the process lives.
    DropRuntime,
    /// `kill -9`.
    Kill,
    /// SIGSTOP; it goes on once it was replaced.
    Pause,
    /// Nothing of it arrives, and nobody is told; its line is mended once it was replaced.
    CutOff,
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Trials {
    pub way: Way,
    pub lease: Duration,
    /// The lease that owners believe in; longer than the other, one that was paused does not notice.
    pub believed: Option<Duration>,
    /// So many groups at once, each with an owner and a standby.
    pub pairs: u32,
    /// So often each.
    pub rounds: u32,
    /// Between two messages of a group.
    pub interval: Duration,
    /// Work on a message.
    pub work: Duration,
    /// How long a standby is left in peace before its owner goes.
    pub peace: Duration,
    pub clock_jumps: bool,
    pub environment: Vec<(String, String)>,
}

impl Trials {
    pub fn new(way: Way, lease: Duration) -> Self {
        Self {
            way,
            lease,
            believed: None,
            pairs: 1,
            rounds: 2,
            interval: Duration::from_millis(20),
            // Some are always in flight, but for those who wait for them before they go.
            work: Duration::from_millis(match way {
                Way::Stop => 2,
                _ => 100,
            }),
            peace: Duration::ZERO,
            clock_jumps: false,
            environment: Vec::new(),
        }
    }

    pub fn pairs(mut self, pairs: u32) -> Self {
        self.pairs = pairs;
        self
    }

    pub fn rounds(mut self, rounds: u32) -> Self {
        self.rounds = rounds;
        self
    }

    /// Runs them.
    pub fn run(&self, world: &World<'_>) -> Result<Outcome, String> {
        let pairs = std::thread::scope(|scope| {
            let start = |pair| scope.spawn(move || Pair::start(world, self, pair).run());
            let threads: Vec<_> = (0..self.pairs).map(start).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect::<Vec<_>>()
        });
        let mut outcome = Outcome::default();
        for (times, margins, story) in pairs {
            outcome.times.extend(times);
            outcome.margins.extend(margins);
            outcome.jumps_back += jumps_back(&story.events);
            outcome.add(story.check()?);
            outcome.sends.extend(story.sends);
        }
        outcome.times.sort();
        outcome.margins.sort();
        outcome.sends.sort();
        Ok(outcome)
    }
}

/// What came of the trials.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How long each takeover took, in order. From a [pause](Way::Pause) or a [cut](Way::CutOff) on it
    /// counts from the last write of the owner or the first message that is pending, whichever is
    /// later.
    pub times: Vec<Duration>,
    /// How long before its successor an owner that was cut off stopped by itself, in order.
    pub margins: Vec<Duration>,
    /// How long it took to write each message, in order: what the database can do just then.
    pub sends: Vec<Duration>,
    /// How often a process told an earlier time than before.
    pub jumps_back: usize,
    pub sum: Summary,
}

impl Outcome {
    fn add(&mut self, summary: Summary) {
        self.sum.messages += summary.messages;
        self.sum.owners += summary.owners;
        self.sum.fenced += summary.fenced;
        self.sum.again += summary.again;
        self.sum.most_again = self.sum.most_again.max(summary.most_again);
    }
}

fn jumps_back(events: &[Event]) -> usize {
    let mut last = std::collections::HashMap::new();
    let goes_back = |event: &&Event| last.insert(event.process, event.at) > Some(event.at);
    events.iter().filter(goes_back).count()
}

/// An owner and its standby, which change places.
struct Pair<'a> {
    world: &'a World<'a>,
    trials: &'a Trials,
    job: Job,
    history: History,
    owner: Member,
    standby: Member,
}

struct Member {
    process: Process,
    /// Where there is one, it is between the process and the server.
    proxy: Option<Arc<Proxy>>,
}

impl<'a> Pair<'a> {
    fn start(world: &'a World<'a>, trials: &'a Trials, pair: u32) -> Self {
        let stream = format!("{:?}-{:?}-{pair}", trials.way, trials.lease);
        let mut job = Job::new(world.url(), &stream, "workers");
        job.lease = trials.believed.unwrap_or(trials.lease);
        job.work = trials.work;
        job.clock_jumps = trials.clock_jumps;
        job.environment.clone_from(&trials.environment);
        let history = History::default();
        let owner = Member::start(world, trials, &job, &history);
        owner.hears(&history, "the first owner", 0, What::Active);
        job.lease = trials.lease;
        let standby = Member::start(world, trials, &job, &history);
        standby.hears(&history, "a standby", 0, What::Standby);
        Self {
            world,
            trials,
            job,
            history,
            owner,
            standby,
        }
    }

    fn run(mut self) -> (Vec<Duration>, Vec<Duration>, Story) {
        let (stream, interval) = (&self.job.stream, self.trials.interval);
        let producing = self.world.produce(stream, interval, &self.history);
        let (mut takeovers, mut margins) = (Vec::new(), Vec::new());
        for _ in 0..self.trials.rounds {
            std::thread::sleep(self.trials.peace);
            let mark = self.history.mark();
            self.owner
                .hears(&self.history, "work", mark, What::Committed);
            let mark = self.history.mark();
            self.owner
                .hears(&self.history, "more work", mark, What::Delivered);
            let left = self.leave(mark);
            let taken = self
                .standby
                .hears(&self.history, "a takeover", mark, What::Active);
            takeovers.push((left, taken.clone()));
            if let Some(stopped) = self.next_standby(mark) {
                margins.push(taken.at.saturating_sub(stopped.at));
            }
            std::mem::swap(&mut self.owner, &mut self.standby);
        }
        let (world, history) = (self.world, &self.history);
        let story = world.finish(producing, history, &self.job, "workers");
        let sent = history.events();
        let times = takeovers.into_iter().map(|(left, taken)| {
            let left = left.unwrap_or_else(|| stood_still(&story, &sent, &taken));
            taken.at.saturating_sub(left)
        });
        (times.collect(), margins, story)
    }

    /// The owner goes: when, unless that depends on what it did before.
    fn leave(&mut self, mark: usize) -> Option<Duration> {
        match self.trials.way {
            Way::Stop => self.owner.process.tell("stop"),
            Way::Drop => self.owner.process.tell("drop"),
            Way::Panic => self.owner.process.tell("panic"),
            Way::DropRuntime => self.owner.process.tell("drop the runtime"),
            Way::Kill => return Some(self.owner.process.kill()),
            Way::Pause => {
                self.owner.process.signal("STOP");
                return None;
            }
            Way::CutOff => {
                self.owner.network(Network::Silent);
                return None;
            }
        }
        let leaving = self
            .owner
            .hears(&self.history, "it leaves", mark, What::Leaving);
        Some(leaving.at)
    }

    /// Makes the former owner the next standby, or starts another process. Gives when the owner
    /// noticed by itself that it was cut off.
    fn next_standby(&mut self, mark: usize) -> Option<Event> {
        let mut noticed = None;
        match self.trials.way {
            Way::Pause => self.owner.process.signal("CONT"),
            Way::CutOff => {
                let history = &self.history;
                noticed = Some(self.owner.hears(history, "it notices", mark, What::Standby));
                self.owner.network(Network::Works);
            }
            _ => {
                // Where it ends by itself it may still have something to say.
                if self.trials.way == Way::Stop {
                    self.owner.hears(&self.history, "its end", mark, What::Gone);
                }
                self.owner = Member::start(self.world, self.trials, &self.job, &self.history);
            }
        }
        self.owner
            .hears(&self.history, "the next standby", mark, What::Standby);
        noticed
    }
}

/// Since when nothing was written with a message pending, before this takeover.
fn stood_still(story: &Story, events: &[Event], taken: &Event) -> Duration {
    let mut writes = story.writes.iter();
    let last = writes.rfind(|write| write.epoch < taken.epoch);
    let last = last.expect("a write of the owner before");
    let is_pending = |event: &&Event| event.what == What::Sent && !last.is_done(event.offset);
    let pending = events.iter().find(is_pending);
    pending.expect("a message that is pending").at.max(last.at)
}

impl Member {
    fn start(world: &World<'_>, trials: &Trials, job: &Job, history: &History) -> Self {
        let mut job = job.clone();
        let proxy = (trials.way == Way::CutOff).then(|| {
            let _runtime = world.runtime.enter();
            let port = world.cluster.port();
            Arc::new(world.runtime.block_on(Proxy::start(port)))
        });
        if let Some(proxy) = &proxy {
            job.url = proxy.url(&world.database);
        }
        Self {
            process: Process::start(&job, history),
            proxy,
        }
    }

    fn network(&self, network: Network) {
        let proxy = self.proxy.as_ref().expect("a proxy before it");
        proxy.set(network);
    }

    /// Waits for the word of this process.
    fn hears(&self, history: &History, what: &str, mark: usize, word: What) -> Event {
        let number = self.process.number;
        history.wait_for(what, mark, |event| {
            event.process == number && event.what == word
        })
    }
}
