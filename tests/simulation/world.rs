//! One run: some processes over one storage, harm, and the end, when all is healed.

use std::cell::Cell;
use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Once};
use std::time::Duration;

use flowstream::Options;
use flowstream::storage::{Group, Name, Partition, Read, Start, Storage};
use tokio::task::JoinHandle;

use crate::consuming::{Pipeline, Plan};
use crate::history::{Event, Forward, History, Log, Seen, Violation};
use crate::process::{Consuming, Process};
use crate::producing::{body, produce};
use crate::run::{Counts, Kind, Mistake, Run, is_planted};
use crate::support::Faulty;

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) found: Vec<Violation>,
    /// In tasks: a runtime tells nobody of them.
    pub(crate) panics: u64,
    pub(crate) counts: Counts,
    /// Of all that happened, and when.
    pub(crate) trace: u64,
    /// In the time of the run.
    pub(crate) time: Duration,
    /// From the moment when all was healed until all was done.
    pub(crate) recovery: Duration,
    pub(crate) history: History,
}

/// All is done so long after all was healed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than any call is late.
const LATE: Duration = Duration::from_secs(3);

/// One seed, over an empty storage.
pub(crate) fn simulate(
    seed: u64,
    mistake: Mistake,
    storage: impl FnOnce() -> Arc<dyn Storage>,
) -> Outcome {
    count_panics();
    let before = PANICS.get();
    let run = Run::new(seed, mistake);
    let (machine, time, storage) = (run.machine.clone(), run.time.clone(), storage());
    let home = run.home.clone();
    let world = async { World::new(run, storage).await.run().await };
    let mut outcome = machine.run(&time, home.handle().spawn(world));
    outcome.panics = PANICS.get() - before;
    outcome
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Of those that nobody planted.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !is_planted(info.payload()) {
                PANICS.set(PANICS.get() + 1);
                before(info);
            }
        }));
    });
}

pub(crate) struct World {
    pub(crate) run: Run,
    storage: Arc<dyn Storage>,
    pub(crate) plans: Vec<Plan>,
    partitions: usize,
    /// Things go wrong until then.
    pub(crate) until: Duration,
    pub(crate) processes: Vec<Process>,
    pub(crate) producers: Vec<JoinHandle<()>>,
}

impl World {
    async fn new(run: Run, storage: Arc<dyn Storage>) -> Self {
        let lease = Duration::from_millis([400, 1_000, 2_000][run.below(3)]);
        let partitions = 1 + run.below(2);
        // With the longer one nothing but the delivery of what was dropped helps a group.
        let max_processing = [lease * 3, PATIENCE * 10][run.below(2)];
        run.with(|it| it.has_lanes = partitions > 1);
        let plan = |number, stream, name, to| Plan {
            number,
            partitions,
            stream,
            name,
            to,
            lease,
            trust: lease,
            max_processing,
            max_attempts: None,
        };
        let mut plans = vec![plan(0, "in", "work", None)];
        if run.chance(60) {
            plans.push(plan(1, "in", "copy", Some("out")));
            if run.chance(30) {
                plans.push(plan(2, "out", "end", None));
            }
        }
        if run.chance(20) {
            plans[0].max_attempts = Some(2);
        }
        let mut world = Self {
            until: Duration::from_secs(2 + run.below(5) as u64),
            run,
            storage,
            plans,
            partitions,
            processes: Vec::new(),
            producers: Vec::new(),
        };
        world.prepare().await;
        world
    }

    /// Streams and groups, before anything can go wrong.
    async fn prepare(&mut self) {
        for (stream, partitions) in self.streams() {
            let name = Name::new(stream).expect("a name");
            let created = self.storage.create_stream(&name, Some(partitions));
            created.await.expect("a stream");
        }
        for group in self.groups() {
            let created = self.storage.create_group(&group, Start::Earliest).await;
            created.expect("a group");
        }
        for plan in self.plans.clone() {
            for _ in 0..1 + self.run.below(2) {
                self.start(plan.clone());
            }
        }
        for _ in 0..1 + self.run.below(2) {
            let at = match self.run.chance(50) {
                true => self.run.below(self.processes.len()),
                false => self.process(None),
            };
            self.processes[at].is_needed = true;
            for _ in 0..1 + self.run.below(2) {
                let flow = self.processes[at].flow.clone();
                let (number, count) = (self.producers.len() as u32, 2 + self.run.below(5));
                let producing = produce(self.run.clone(), flow, number, count);
                self.producers.push(self.run.spawn(producing));
            }
        }
    }

    /// With their partitions, in the order in which they stand in the history.
    fn streams(&self) -> [(&'static str, u32); 3] {
        let partitions = self.partitions as u32;
        [("in", partitions), ("out", partitions), ("dead", 1)]
    }

    /// In the order in which they stand in the history.
    fn groups(&self) -> Vec<Group> {
        let plans = self.plans.iter();
        let groups = plans.flat_map(|plan| (0..self.partitions).map(|index| group(plan, index)));
        groups.collect()
    }

    /// Another process; gives its place.
    fn process(&mut self, consuming: Option<(Plan, Duration)>) -> usize {
        let faulty = Faulty::with_dice(self.storage.clone(), Arc::new(self.run.clone()));
        // In every other process two appends may be under way at once.
        faulty.deepen(1 + self.run.below(2));
        let budget = Duration::from_millis([0, 200, 2_000][self.run.below(3)]);
        let options = Options::new()
            .retry_for(budget)
            .clock(self.run.time.clone());
        let flow = options.open_storage(Arc::new(faulty.clone()));
        let room = (consuming.is_some() && self.run.chance(30)).then(|| self.run.machine.open());
        let consuming = consuming.map(|(plan, after)| {
            let (run, flow) = (self.run.clone(), flow.clone());
            Consuming::start(Pipeline { run, flow, plan }, room.as_ref(), after)
        });
        self.processes.push(Process {
            flow,
            faulty,
            budget,
            consuming,
            room,
            is_needed: false,
        });
        self.processes.len() - 1
    }

    pub(crate) fn start(&mut self, mut plan: Plan) {
        if !self.run.is_calm() && self.run.chance(30) {
            // As if its clock went too slowly: it does not notice that others took it for dead.
            self.run.count(Kind::TrustsTooLong);
            plan.trust = plan.lease * 20;
        }
        let after = self.run.time_below(300);
        self.process(Some((plan, after)));
    }

    async fn run(mut self) -> Outcome {
        while self.run.elapsed() < self.until {
            self.run.sleep_below(1_200).await;
            self.look().await;
            self.harm();
        }
        self.heal().await;
        let recovery = self.drain().await;
        self.finish(recovery).await
    }

    async fn look(&self) {
        let states = self.storage.observe(&self.groups()).await.expect("a look");
        for (group, state) in states.into_iter().enumerate() {
            let state = state.expect("a group");
            self.run.push(Event::Seen(Seen {
                group,
                epoch: state.epoch,
                position: state.progress.position(),
                acked: state.progress.acked().iter().collect(),
            }));
        }
    }

    /// Nothing goes wrong any more, and each group has somebody who consumes.
    async fn heal(&mut self) {
        self.run.calm_down();
        for process in &self.processes {
            process.faulty.heal();
        }
        for plan in self.plans.clone() {
            if !self.has_consumer(&plan) || self.run.chance(50) {
                self.start(plan);
            }
        }
        for producer in std::mem::take(&mut self.producers) {
            producer.await.expect("a producer that did not panic");
        }
        self.run.time.sleep(LATE).await;
    }

    /// Whether somebody consumes for it, and whether that is somebody who takes over in time.
    fn has_consumer(&self, plan: &Plan) -> bool {
        self.processes.iter().any(|process| {
            let plans = process.consuming.as_ref().map(|it| &it.pipeline.plan);
            plans.is_some_and(|it| it.number == plan.number && it.trust == it.lease)
        })
    }

    /// Waits until all groups are at the end, and gives the time that it took.
    async fn drain(&self) -> Duration {
        let began = self.run.elapsed();
        loop {
            let took = self.run.elapsed() - began;
            if self.is_drained().await || took > PATIENCE {
                return took;
            }
            self.run.time.sleep(Duration::from_millis(200)).await;
        }
    }

    async fn is_drained(&self) -> bool {
        let states = self.storage.observe(&self.groups()).await.expect("a look");
        states.iter().flatten().all(|state| state.lag() == 0)
    }

    async fn finish(self, recovery: Duration) -> Outcome {
        self.look().await;
        let mut logs = Vec::new();
        for (stream, partitions) in self.streams() {
            for index in 0..partitions {
                logs.push(self.log(stream, index).await);
            }
        }
        let count = self.partitions;
        let groups = self.plans.iter().flat_map(|plan| {
            let first = if plan.stream == "out" { count } else { 0 };
            (first..first + count).map(|log| crate::history::Group {
                name: format!("{} of {}", plan.name, logs[log].name),
                log,
                start: 0,
            })
        });
        let groups: Vec<_> = groups.collect();
        let forward = |plan, to: Range<usize>, is_whole| Forward {
            groups: (plan * count..(plan + 1) * count).collect(),
            to: to.collect(),
            is_whole,
        };
        let dead = 2 * count;
        let mut forwards = vec![forward(0, dead..dead + 1, false)];
        if self.plans.len() > 1 {
            forwards.push(forward(1, count..dead, true));
        }
        let (found, mut counts) = self.run.with(|it| {
            let found = std::mem::take(&mut it.history);
            (found, it.counts.clone())
        });
        counts.0[Kind::MovedAway as usize] += logs[dead].messages.len() as u64;
        counts.0[Kind::NewOwner as usize] += owners(&found.events);
        let history = History {
            logs,
            groups,
            forwards,
            ..found
        };
        Outcome {
            found: history.check(),
            panics: 0,
            counts,
            trace: self.run.trace(),
            time: self.run.elapsed(),
            recovery,
            history,
        }
    }

    async fn log(&self, stream: &str, index: u32) -> Log {
        let partition = partition(stream, index);
        let read = Read {
            partition,
            from: 0,
            max_bytes: usize::MAX,
            group: None,
        };
        let fetched = self.storage.read(read).await.expect("a log");
        let batches = fetched.batches.iter();
        let messages = batches.flat_map(|batch| {
            let numbers = (0..batch.records.len()).map(|at| body(&batch.records.message(at)));
            batch.offsets().zip(numbers)
        });
        Log {
            name: format!("{stream}/{index}"),
            start: fetched.bounds.start,
            messages: messages.collect(),
            is_forwarded: stream != "in",
        }
    }
}

/// How many owners followed on another.
fn owners(events: &[Event]) -> u64 {
    let epochs = events.iter().filter_map(|event| match event {
        Event::Delivered { owner, .. } if owner.epoch > 1 => Some((owner.group, owner.epoch)),
        _ => None,
    });
    epochs.collect::<HashSet<_>>().len() as u64
}

fn partition(stream: &str, index: u32) -> Partition {
    Partition {
        stream: Name::new(stream).expect("a name"),
        index,
    }
}

fn group(plan: &Plan, index: usize) -> Group {
    Group {
        partition: partition(plan.stream, index as u32),
        name: Name::new(plan.name).expect("a name"),
    }
}
