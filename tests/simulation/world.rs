//! One run: some processes over one storage, harm, and the end, when all is healed.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use flowstream::storage::{Group, Name, Partition, Read, Start, Storage};
use flowstream::{Control, Flowstream, Options};
use tokio::task::JoinHandle;

use crate::consuming::{Pipeline, Plan};
use crate::history::{Event, Forward, History, Log, Seen, Violation};
use crate::producing::{body, produce};
use crate::run::{Counts, Kind, Run};
use crate::support::{Fault, Faulty};

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
const PATIENCE: Duration = Duration::from_secs(60);

/// Longer than any call is late.
const LATE: Duration = Duration::from_secs(3);

/// One seed, over an empty storage.
pub(crate) fn simulate(seed: u64, storage: impl FnOnce() -> Arc<dyn Storage>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    count_panics();
    let before = PANICS.get();
    let mut outcome = runtime.block_on(async {
        let world = World::new(seed, storage()).await;
        world.run().await
    });
    // With it goes what still runs.
    drop(runtime);
    outcome.panics = PANICS.get() - before;
    outcome
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            before(info);
        }));
    });
}

struct World {
    run: Run,
    storage: Arc<dyn Storage>,
    plans: Vec<Plan>,
    logs: Vec<&'static str>,
    processes: Vec<Process>,
    producers: Vec<JoinHandle<()>>,
}

/// A process: what it is killed or cut off with. Each has one consumer at most: where several watch
/// one partition, tokio decides by chance which of them is woken first.
struct Process {
    faulty: Faulty,
    consuming: Option<Consuming>,
}

struct Consuming {
    pipeline: Pipeline,
    control: Arc<Mutex<Option<Control>>>,
    task: JoinHandle<()>,
}

impl World {
    async fn new(seed: u64, storage: Arc<dyn Storage>) -> Self {
        let run = Run::new(seed);
        let lease = Duration::from_millis([400, 1_000, 2_000][run.below(3)]);
        let plan = |group, stream, name, to| Plan {
            group,
            stream,
            name,
            to,
            lease,
            trust: lease,
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
            run,
            storage,
            plans,
            logs: vec!["in", "out", "dead"],
            processes: Vec::new(),
            producers: Vec::new(),
        };
        world.prepare().await;
        world
    }

    /// Streams and groups, before anything can go wrong.
    async fn prepare(&mut self) {
        for log in &self.logs {
            let name = Name::new(*log).expect("a name");
            let created = self.storage.create_stream(&name, None).await;
            created.expect("a stream");
        }
        for plan in &self.plans {
            let group = group(plan);
            let created = self.storage.create_group(&group, Start::Earliest).await;
            created.expect("a group");
        }
        for plan in self.plans.clone() {
            for _ in 0..1 + self.run.below(2) {
                self.start(plan.clone());
            }
        }
        let mut number = 0;
        for _ in 0..1 + self.run.below(2) {
            let flow = self.process(None);
            for _ in 0..1 + self.run.below(2) {
                let count = 2 + self.run.below(5);
                let producing = produce(self.run.clone(), flow.clone(), number, count);
                self.producers.push(tokio::spawn(producing));
                number += 1;
            }
        }
    }

    /// Another process.
    fn process(&mut self, consuming: Option<(Plan, Duration)>) -> Flowstream {
        let faulty = Faulty::with_dice(self.storage.clone(), Arc::new(self.run.clone()));
        // In every other process two appends may be under way at once.
        faulty.deepen(1 + self.run.below(2));
        let budget = Duration::from_millis([0, 200, 2_000][self.run.below(3)]);
        let options = Options::new().retry_for(budget);
        let flow = options.open_storage(Arc::new(faulty.clone()));
        let consuming = consuming.map(|(plan, after)| {
            let run = self.run.clone();
            let flow = flow.clone();
            Consuming::start(Pipeline { run, flow, plan }, after)
        });
        self.processes.push(Process { faulty, consuming });
        flow
    }

    fn start(&mut self, mut plan: Plan) {
        if !self.run.is_calm() && self.run.chance(30) {
            // As if its clock went too slowly: it does not notice that others took it for dead.
            self.run.count(Kind::TrustsTooLong);
            plan.trust = plan.lease * 20;
        }
        let after = self.run.time_below(300);
        self.process(Some((plan, after)));
    }

    async fn run(mut self) -> Outcome {
        let until = Duration::from_secs(2 + self.run.below(5) as u64);
        while self.run.elapsed() < until {
            self.run.sleep_below(1_200).await;
            self.look().await;
            self.harm();
        }
        self.heal().await;
        let recovery = self.drain().await;
        self.finish(recovery).await
    }

    /// Something happens to one of the processes that consume.
    fn harm(&mut self) {
        let consuming = self.processes.iter_mut().enumerate();
        let mut consuming = consuming.filter(|(_, process)| process.consuming.is_some());
        let count = consuming.by_ref().count();
        if count == 0 {
            return;
        }
        let which = self.run.below(count);
        let consuming = self.processes.iter().enumerate();
        let mut consuming = consuming.filter(|(_, process)| process.consuming.is_some());
        let (at, _) = consuming.nth(which).expect("so many");
        match self.run.below(8) {
            0 | 1 => self.kill(at),
            2 | 3 => self.cut(at, Fault::Hold, Kind::CutOff),
            4 => self.cut(at, Fault::Fail, Kind::Refused),
            5 => self.shut_down(at),
            6 => self.drop_consumer(at),
            _ => {}
        }
    }

    /// Nothing is heard of it any more, but what is under way may arrive.
    fn kill(&mut self, at: usize) {
        self.run.count(Kind::Killed);
        let process = self.processes.swap_remove(at);
        process.faulty.set_all(Fault::Hold);
        if let Some(consuming) = process.consuming {
            consuming.task.abort();
            let Plan { group, .. } = consuming.pipeline.plan;
            self.start(self.plans[group].clone());
        }
    }

    /// Its calls do not arrive for a while; those that wait arrive then, or are refused.
    fn cut(&mut self, at: usize, fault: Fault, kind: Kind) {
        self.run.count(kind);
        let process = &self.processes[at];
        let faulty = process.faulty.clone();
        faulty.set_all(fault);
        let time = self.run.time_below(4_000);
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            faulty.heal();
        });
    }

    fn shut_down(&mut self, at: usize) {
        if let Some(consuming) = &mut self.processes[at].consuming {
            let control = consuming.control.lock().unwrap().take();
            let Some(control) = control else { return };
            self.run.count(Kind::ShutDown);
            drop(control.shutdown());
            consuming.again(self.run.time_below(500));
        }
    }

    fn drop_consumer(&mut self, at: usize) {
        if let Some(consuming) = &mut self.processes[at].consuming {
            self.run.count(Kind::DroppedConsumer);
            consuming.task.abort();
            consuming.again(self.run.time_below(500));
        }
    }

    async fn look(&self) {
        let groups: Vec<Group> = self.plans.iter().map(group).collect();
        let states = self.storage.observe(&groups).await.expect("a look");
        for (plan, state) in self.plans.iter().zip(states) {
            let state = state.expect("a group");
            self.run.push(Event::Seen(Seen {
                group: plan.group,
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
            self.start(plan);
        }
        for producer in std::mem::take(&mut self.producers) {
            producer.await.expect("a producer that did not panic");
        }
        tokio::time::sleep(LATE).await;
    }

    /// Waits until all groups are at the end, and gives the time that it took.
    async fn drain(&self) -> Duration {
        let began = self.run.elapsed();
        loop {
            let took = self.run.elapsed() - began;
            if self.is_drained().await || took > PATIENCE {
                return took;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn is_drained(&self) -> bool {
        let groups: Vec<Group> = self.plans.iter().map(group).collect();
        let states = self.storage.observe(&groups).await.expect("a look");
        states.iter().flatten().all(|state| state.lag() == 0)
    }

    async fn finish(self, recovery: Duration) -> Outcome {
        self.look().await;
        let mut logs = Vec::new();
        for name in &self.logs {
            logs.push(self.log(name).await);
        }
        let groups = self.plans.iter().map(|plan| crate::history::Group {
            name: plan.name.to_owned(),
            log: usize::from(plan.stream == "out"),
            start: 0,
        });
        let forward = |group, to, is_whole| Forward {
            groups: vec![group],
            to: vec![to],
            is_whole,
        };
        let mut forwards = vec![forward(0, 2, false)];
        if self.plans.len() > 1 {
            forwards.push(forward(1, 1, true));
        }
        let (found, mut counts) = self.run.with(|it| {
            let found = std::mem::take(&mut it.history);
            (found, it.counts.clone())
        });
        counts.0[Kind::MovedAway as usize] += logs[2].messages.len() as u64;
        counts.0[Kind::NewOwner as usize] += owners(&found.events);
        let history = History {
            logs,
            groups: groups.collect(),
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

    async fn log(&self, name: &str) -> Log {
        let partition = partition(name);
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
            name: name.to_owned(),
            start: fetched.bounds.start,
            messages: messages.collect(),
            is_forwarded: name != "in",
        }
    }
}

impl Consuming {
    fn start(pipeline: Pipeline, after: Duration) -> Self {
        let control = Arc::new(Mutex::new(None));
        let task = tokio::spawn(consume(pipeline.clone(), control.clone(), after));
        Self {
            pipeline,
            control,
            task,
        }
    }

    /// With another consumer, of the same process.
    fn again(&mut self, after: Duration) {
        *self = Self::start(self.pipeline.clone(), after);
    }
}

async fn consume(pipeline: Pipeline, control: Arc<Mutex<Option<Control>>>, after: Duration) {
    tokio::time::sleep(after).await;
    let consumer = pipeline.consumer().await;
    *control.lock().unwrap() = Some(consumer.control());
    pipeline.consume(consumer).await;
}

/// How many owners followed on another.
fn owners(events: &[Event]) -> u64 {
    let epochs = events.iter().filter_map(|event| match event {
        Event::Delivered { owner, .. } if owner.epoch > 1 => Some((owner.group, owner.epoch)),
        _ => None,
    });
    epochs.collect::<HashSet<_>>().len() as u64
}

fn partition(stream: &str) -> Partition {
    Partition {
        stream: Name::new(stream).expect("a name"),
        index: 0,
    }
}

fn group(plan: &Plan) -> Group {
    Group {
        partition: partition(plan.stream),
        name: Name::new(plan.name).expect("a name"),
    }
}
