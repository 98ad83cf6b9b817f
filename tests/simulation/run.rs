//! What all that takes part in a run shares: randomness, the history, the trace, and what is counted.

use std::any::Any;
use std::hash::{Hash, Hasher};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::storage::Notification;
use flowstream::{Clock, Delivery, Error, Result};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::history::{Event, History, Owner};
use crate::machine::{Machine, Room};
use crate::support::{Call, Dice, Fault, PANICS, Random};
use crate::time::Time;
use crate::trace::Trace;

/// What happens to a run, and what comes of it. Each has to happen in some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    // What the storage does to calls.
    FailedBefore,
    AnswerLost,
    InDoubtNotApplied,
    Slow,
    AppliedLate,
    /// Applied behind a call that began later.
    Overtaken,
    Panicked,
    NotificationLost,
    // What is done to processes.
    Killed,
    CutOff,
    Refused,
    TrustsTooLong,
    ShutDown,
    DroppedConsumer,
    RuntimeEnded,
    CrowdInOutage,
    // What pipelines do.
    DroppedDelivery,
    Retry,
    HeldForLong,
    DroppedCommit,
    DroppedAppend,
    TakenBack,
    // What comes of it.
    CommitFenced,
    CommitUnknown,
    AppendFenced,
    AppendInDoubt,
    AppendFailed,
    NewOwner,
    DeliveredAgain,
    MovedAway,
    StreamError,
    StreamBroken,
}

pub(crate) const KINDS: [Kind; 32] = [
    Kind::FailedBefore,
    Kind::AnswerLost,
    Kind::InDoubtNotApplied,
    Kind::Slow,
    Kind::AppliedLate,
    Kind::Overtaken,
    Kind::Panicked,
    Kind::NotificationLost,
    Kind::Killed,
    Kind::CutOff,
    Kind::Refused,
    Kind::TrustsTooLong,
    Kind::ShutDown,
    Kind::DroppedConsumer,
    Kind::RuntimeEnded,
    Kind::CrowdInOutage,
    Kind::DroppedDelivery,
    Kind::Retry,
    Kind::HeldForLong,
    Kind::DroppedCommit,
    Kind::DroppedAppend,
    Kind::TakenBack,
    Kind::CommitFenced,
    Kind::CommitUnknown,
    Kind::AppendFenced,
    Kind::AppendInDoubt,
    Kind::AppendFailed,
    Kind::NewOwner,
    Kind::DeliveredAgain,
    Kind::MovedAway,
    Kind::StreamError,
    Kind::StreamBroken,
];

/// What callers of a run do wrong, to show that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    None,
    /// As if one answer took the time of all attempts.
    CountsAllAttempts,
    /// What it drops is still held by somebody.
    KeepsWhatItDrops,
    /// Nobody is told of a shutdown.
    ShutsDownInSecret,
    /// It takes any error for the end.
    TakesErrorsForTheEnd,
}

/// No call takes longer, in milliseconds, but where its process is cut off.
pub(crate) const LONGEST_CALL: usize = 2_560;

/// How often each kind was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(pub(crate) [u64; KINDS.len()]);

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// Clones share it.
#[derive(Clone)]
pub(crate) struct Run {
    state: Arc<Mutex<State>>,
    pub(crate) time: Time,
    pub(crate) machine: Machine,
    /// The runtime that is there until the end.
    pub(crate) home: Room,
}

pub(crate) struct State {
    pub(crate) random: Random,
    pub(crate) history: History,
    pub(crate) counts: Counts,
    trace: Trace,
    /// Of a thousand calls, so many go wrong.
    rate: usize,
    /// Whether drivers panic.
    has_panics: bool,
    pub(crate) mistake: Mistake,
    /// Held until the end.
    kept: Vec<Delivery>,
    /// Whether a consumer has several partitions.
    pub(crate) has_lanes: bool,
    /// Nothing goes wrong any more.
    is_calm: bool,
    calls: u64,
    /// The greatest number of a call that was applied.
    applied: u64,
    numbers: u64,
}

impl Run {
    pub(crate) fn new(seed: u64, mistake: Mistake) -> Self {
        let mut random = Random::new(seed);
        let rates = [0, 20, 100, 250];
        let rate = rates[random.below(rates.len())];
        let state = State {
            has_panics: random.one_in(4),
            random,
            history: History::default(),
            counts: Counts::default(),
            trace: Trace::new(),
            rate,
            mistake,
            kept: Vec::new(),
            has_lanes: false,
            is_calm: false,
            calls: 0,
            applied: 0,
            numbers: 0,
        };
        let machine = Machine::default();
        Self {
            state: Arc::new(Mutex::new(state)),
            time: Time::default(),
            home: machine.open(),
            machine,
        }
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap())
    }

    /// A task that no end of a runtime takes along.
    pub(crate) fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.home.handle().spawn(task)
    }

    pub(crate) fn below(&self, bound: usize) -> usize {
        self.with(|it| it.random.below(bound))
    }

    /// Whether something happens that happens to so many in a hundred.
    pub(crate) fn chance(&self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn time_below(&self, millis: usize) -> Duration {
        Duration::from_millis(1 + self.below(millis) as u64)
    }

    pub(crate) async fn sleep_below(&self, millis: usize) {
        self.time.sleep(self.time_below(millis)).await;
    }

    /// Before a call is made again: time passes only while nobody has anything to do.
    pub(crate) async fn pause(&self, error: &Error) {
        self.expect(error);
        self.note(&"again");
        self.sleep_below(200).await;
    }

    /// Calls until it succeeds, also where the driver panics in the hands of the caller.
    pub(crate) async fn persist<T, F>(&self, mut call: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match AssertUnwindSafe(call()).catch_unwind().await {
                Ok(Ok(value)) => return value,
                Ok(Err(error)) => self.pause(&error).await,
                Err(panic) if is_planted(&*panic) => self.sleep_below(200).await,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }

    /// Errors say that the storage cannot be reached; or that something died, where something may.
    pub(crate) fn expect(&self, error: &Error) {
        let may_die = self.with(|it| it.has_panics || it.count_of(Kind::RuntimeEnded) > 0);
        assert!(error.is_transient() || may_die, "{error}");
    }

    /// A number that nothing else in this run has.
    pub(crate) fn number(&self) -> u64 {
        self.with(|it| {
            it.numbers += 1;
            it.numbers
        })
    }

    pub(crate) fn count(&self, kind: Kind) {
        self.with(|it| it.count(kind));
    }

    pub(crate) fn push(&self, event: Event) {
        let now = self.time.now();
        self.with(|it| {
            it.note(now, &event);
            it.history.events.push(event);
        });
    }

    pub(crate) fn delivered(&self, owner: Owner, offset: u64, message: u64) {
        self.push(Event::Delivered {
            owner,
            offset,
            message,
        });
    }

    pub(crate) fn has(&self, mistake: Mistake) -> bool {
        self.with(|it| it.mistake == mistake)
    }

    /// Holds it until the end.
    pub(crate) fn keep(&self, delivery: Delivery) {
        self.with(|it| it.kept.push(delivery));
    }

    /// Leaves something in the trace.
    pub(crate) fn note(&self, what: &impl Hash) {
        let now = self.time.now();
        self.with(|it| it.note(now, what));
    }

    pub(crate) fn calm_down(&self) {
        self.with(|it| it.is_calm = true);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.with(|it| it.is_calm)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.time.now()
    }

    pub(crate) fn trace(&self) -> u64 {
        self.with(|it| it.trace.finish())
    }
}

impl State {
    pub(crate) fn count(&mut self, kind: Kind) {
        self.counts.0[kind as usize] += 1;
    }

    pub(crate) fn count_of(&self, kind: Kind) -> u64 {
        self.counts.0[kind as usize]
    }

    fn note(&mut self, now: Duration, what: &impl Hash) {
        now.as_micros().hash(&mut self.trace);
        what.hash(&mut self.trace);
    }
}

impl Dice for Run {
    fn throw(&self, call: Call) -> Option<Fault> {
        self.with(|it| {
            if it.is_calm || it.random.below(1000) >= it.rate {
                return None;
            }
            let mut time = |millis| Duration::from_millis(it.random.below(millis) as u64);
            let (short, long) = (time(60), time(LONGEST_CALL - 60));
            if it.has_panics && it.random.one_in(8) {
                let faults = [Fault::Panic, Fault::PanicAfter];
                return Some(*it.random.pick(&faults));
            }
            let is_write = matches!(
                call,
                Call::Append | Call::Settle | Call::Claim | Call::Commit | Call::Release
            );
            Some(match it.random.below(if is_write { 8 } else { 5 }) {
                0 | 1 => Fault::Fail,
                2 => Fault::Slow(short, short),
                3 => Fault::Slow(long / 2, short),
                4 => Fault::Slow(short, long),
                5 => Fault::Lose,
                6 => Fault::Doubt,
                _ => Fault::LateBy(long),
            })
        })
    }

    fn begins(&self, call: Call, fault: Option<Fault>) -> u64 {
        let now = self.time.now();
        self.with(|it| {
            it.note(now, &(call, fault));
            let kind = match fault {
                Some(Fault::Fail) => Some(Kind::FailedBefore),
                Some(Fault::Lose) => Some(Kind::AnswerLost),
                Some(Fault::Doubt) => Some(Kind::InDoubtNotApplied),
                Some(Fault::Slow(..)) => Some(Kind::Slow),
                Some(Fault::LateBy(_)) => Some(Kind::AppliedLate),
                Some(Fault::Panic | Fault::PanicAfter) => Some(Kind::Panicked),
                _ => None,
            };
            if let Some(kind) = kind {
                it.count(kind);
            }
            it.calls += 1;
            it.calls
        })
    }

    fn applies(&self, number: u64) {
        let now = self.time.now();
        self.with(|it| {
            it.note(now, &number);
            if number < it.applied {
                it.count(Kind::Overtaken);
            }
            it.applied = it.applied.max(number);
        });
    }

    fn loses(&self, _: &Notification) -> bool {
        self.with(|it| {
            let is_lost = !it.is_calm && it.random.below(1000) < it.rate;
            if is_lost {
                it.count(Kind::NotificationLost);
            }
            is_lost
        })
    }

    /// Which of those who wait together for a consumer to be polled or to end goes on first is decided by
    /// chance inside of tokio. So what they ask for arrives in the order of their partitions.
    fn transit(&self, partition: u32) -> Option<BoxFuture<'static, ()>> {
        let time = Duration::from_micros(1 + u64::from(partition));
        let has_lanes = self.with(|it| it.has_lanes);
        has_lanes.then(|| -> BoxFuture<'static, ()> { Box::pin(self.time.sleep(time)) })
    }

    fn serve(&self, work: BoxFuture<'static, ()>) {
        self.spawn(work);
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.time.sleep(time))
    }
}

/// Whether a driver was told to panic so.
pub(crate) fn is_planted(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>();
    text.is_some_and(|text| text.ends_with(PANICS))
}
