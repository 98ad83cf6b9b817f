//! The processes that copy one stream into the next, and what is done to them.

use std::time::Duration;

use crate::process_support::history::{Event, History, What};
use crate::process_support::worker::random;
use crate::process_support::{Job, Process};
use crate::steps::{Call, Harm, Side, Step};
use crate::worker;

/// Who copies: one is active, the others stand by.
pub(crate) struct Hop {
    job: Job,
    history: History,
    processes: Vec<Process>,
    /// Those that stopped for longer than a lease and went on.
    zombies: Vec<u32>,
    tally: Tally,
}

/// What is done to the active process, or to the next one.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Round {
    /// `kill -9` at any moment.
    Kill,
    /// SIGSTOP at any moment; it goes on once it was replaced.
    Pause,
    /// A shutdown.
    Stop,
    /// Harm at a step.
    Step(Step),
}

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// At any moment.
    pub(crate) killed: usize,
    /// At a step.
    pub(crate) died: usize,
    /// At any moment.
    pub(crate) paused: usize,
    /// At a step.
    pub(crate) paused_at_step: usize,
    pub(crate) stopped: usize,
    /// The lease was another's before the step was reached.
    pub(crate) missed: usize,
    /// Zombies that wrote messages with a lease that was lost.
    pub(crate) zombies_refused: usize,
    /// Appends that were refused, of all.
    pub(crate) refused: usize,
    /// The messages in them.
    pub(crate) refused_messages: u64,
    /// Pipelines that failed and were made anew.
    pub(crate) errors: usize,
}

impl Round {
    /// Everything that is done to a process.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for harm in [Harm::Die, Harm::Pause] {
            for side in [Side::Before, Side::After] {
                let step = |call, nth| Step {
                    call,
                    nth,
                    side,
                    harm,
                };
                all.extend([
                    Self::Step(step(Call::Append, 1)),
                    Self::Kill,
                    Self::Step(step(Call::Claim, 1)),
                    Self::Pause,
                    Self::Step(step(Call::Append, 3)),
                    Self::Step(step(Call::Release, 1)),
                    Self::Stop,
                    Self::Step(step(Call::Read, 1)),
                ]);
            }
        }
        all
    }
}

impl Hop {
    /// With two processes.
    pub(crate) fn start(url: &str, from: &str, to: &str, lease: Duration) -> Self {
        let mut hop = Self::new(url, from, to, lease);
        hop.fill();
        hop
    }

    /// With one that writes its position apart from the messages.
    pub(crate) fn start_apart(url: &str, from: &str, to: &str, lease: Duration) -> Self {
        let mut hop = Self::new(url, from, to, lease);
        let apart = (worker::APART.to_owned(), String::new());
        hop.job.environment.push(apart);
        hop.fill();
        hop
    }

    fn new(url: &str, from: &str, to: &str, lease: Duration) -> Self {
        let mut job = Job::new(url, from, "copy");
        job.lease = lease;
        job.environment = vec![(worker::TO.to_owned(), to.to_owned())];
        Self {
            job,
            history: History::default(),
            processes: Vec::new(),
            zombies: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// Does this, and waits until another is active.
    pub(crate) fn run(&mut self, round: Round) {
        self.fill();
        let owner = self.owner_besides(0);
        match round {
            Round::Kill => {
                std::thread::sleep(Duration::from_millis(random(200)));
                self.take(owner).kill();
                self.tally.killed += 1;
            }
            Round::Pause => {
                std::thread::sleep(Duration::from_millis(random(200)));
                self.process(owner).signal("STOP");
                self.owner_besides(owner);
                self.process(owner).signal("CONT");
                self.zombies.push(owner);
                self.tally.paused += 1;
            }
            Round::Stop => self.shut_down(owner),
            Round::Step(step) => self.harm(owner, step),
        }
        self.fill();
        self.owner_besides(0);
    }

    fn harm(&mut self, owner: u32, step: Step) {
        let target = match step.call {
            Call::Claim => self.standby(owner),
            _ => owner,
        };
        let mark = self.arm(target, step);
        match step.call {
            // It took the lease over before it knew, as it may where the machine is busy.
            Call::Claim if self.is_active(target) => return self.miss(target),
            Call::Claim => self.shut_down(owner),
            Call::Release => self.process(target).tell("stop"),
            _ => {}
        }
        if !self.is_reached(target, step, mark) {
            // Its lease ran out before, as it may where the machine is busy; or it had been paused in
            // a claim, and believed for a moment what came of it.
            return self.miss(target);
        }
        match step.harm {
            Harm::Die => self.wait(target, mark, What::Gone),
            Harm::Pause => {
                if step.call == Call::Claim {
                    self.add();
                }
                self.go_on(target, || {});
                self.wait(target, mark, What::Left);
            }
        }
        if step.harm == Harm::Die || step.call == Call::Release {
            self.wait(target, mark, What::Gone);
            drop(self.take(target));
        }
    }

    fn miss(&mut self, number: u32) {
        drop(self.take(number));
        self.tally.missed += 1;
    }

    /// Tells a process what will happen to it, and waits until it knows: the mark in the history from
    /// which on it does.
    pub(crate) fn arm(&mut self, number: u32, step: Step) -> usize {
        let mark = self.history.mark();
        self.process(number).tell(&step.encode());
        self.wait(number, mark, What::Armed);
        mark
    }

    /// Waits until a process has come to its step, where it dies or stops; false if it lost its lease
    /// before.
    pub(crate) fn is_reached(&mut self, number: u32, step: Step, mark: usize) -> bool {
        let event = self.history.wait_for("a step", mark, |event| {
            let is_end = match event.what {
                What::Leaving => true,
                What::Standby => matches!(step.call, Call::Append | Call::Read),
                What::Active => step.call == Call::Claim,
                What::Gone => step.call == Call::Release,
                _ => false,
            };
            event.process == number && is_end
        });
        if event.what == What::Leaving {
            match step.harm {
                Harm::Die => self.tally.died += 1,
                Harm::Pause => {
                    self.process(number).signal("STOP");
                    self.tally.paused_at_step += 1;
                }
            }
        }
        event.what == What::Leaving
    }

    /// Lets a process go on that was paused at a step, once another is active and this is done.
    pub(crate) fn go_on(&mut self, number: u32, meanwhile: impl FnOnce()) {
        self.owner_besides(number);
        meanwhile();
        let process = self.process(number);
        process.tell("go on");
        process.signal("CONT");
        self.zombies.push(number);
    }

    /// Waits until a process says so.
    pub(crate) fn wait(&self, number: u32, mark: usize, what: What) {
        let fits = |event: &Event| event.process == number && event.what == what;
        self.history.wait_for(&format!("{what:?}"), mark, fits);
    }

    /// The number of the active process, once there is one that is not this.
    pub(crate) fn owner_besides(&self, besides: u32) -> u32 {
        let mark = self.history.mark();
        let candidates = self.processes.iter().map(|process| process.number);
        let candidates: Vec<u32> = candidates.filter(|number| *number != besides).collect();
        match candidates.iter().find(|number| self.is_active(**number)) {
            Some(number) => *number,
            None => {
                let fits = |event: &Event| {
                    event.what == What::Active && candidates.contains(&event.process)
                };
                self.history.wait_for("an owner", mark, fits).process
            }
        }
    }

    fn is_active(&self, number: u32) -> bool {
        let statuses = [What::Active, What::Standby, What::Idle, What::Closed];
        let told = |event: &Event| event.process == number && statuses.contains(&event.what);
        self.history
            .last(told)
            .is_some_and(|last| last.what == What::Active)
    }

    /// Ends all processes that are left, in good order, and says what happened.
    pub(crate) fn finish(mut self) -> Tally {
        for process in &mut self.processes {
            process.signal("CONT");
            process.tell("stop");
        }
        for process in &self.processes {
            self.wait(process.number, 0, What::Gone);
        }
        let events = self.history.events();
        let refused = events.iter().filter(|event| event.what == What::Fenced);
        let is_refused = |zombie: &&u32| refused.clone().any(|event| event.process == **zombie);
        let errors = events.iter().filter(|event| event.what == What::Error);
        Tally {
            zombies_refused: self.zombies.iter().filter(is_refused).count(),
            refused: refused.clone().count(),
            refused_messages: refused.map(|event| event.offset).sum(),
            errors: errors.count(),
            ..self.tally
        }
    }

    /// Two processes at least, ready.
    fn fill(&mut self) {
        while self.processes.len() < 2 {
            self.add();
        }
    }

    fn add(&mut self) {
        let process = Process::start(&self.job, &self.history);
        let number = process.number;
        self.processes.push(process);
        // Its first claim comes at once, and is not the one that takes over.
        self.wait(number, 0, What::Answered);
    }

    fn shut_down(&mut self, number: u32) {
        let mut process = self.take(number);
        process.tell("stop");
        self.wait(number, 0, What::Gone);
        self.tally.stopped += 1;
    }

    fn standby(&self, owner: u32) -> u32 {
        let mut numbers = self.processes.iter().map(|process| process.number);
        let other = numbers.find(|number| *number != owner);
        other.expect("there are two")
    }

    fn process(&mut self, number: u32) -> &mut Process {
        let mut processes = self.processes.iter_mut();
        let process = processes.find(|process| process.number == number);
        process.expect("it is there")
    }

    fn take(&mut self, number: u32) -> Process {
        let mut processes = self.processes.iter();
        let place = processes.position(|process| process.number == number);
        self.processes.remove(place.expect("it is there"))
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.killed += other.killed;
        self.died += other.died;
        self.paused += other.paused;
        self.paused_at_step += other.paused_at_step;
        self.stopped += other.stopped;
        self.missed += other.missed;
        self.zombies_refused += other.zombies_refused;
        self.refused += other.refused;
        self.refused_messages += other.refused_messages;
        self.errors += other.errors;
    }
}
