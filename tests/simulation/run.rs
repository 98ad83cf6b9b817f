//! What all that takes part in a run shares: randomness, the history, the trace, and what is counted.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::Error;
use flowstream::storage::Notification;
use tokio::time::Instant;

use crate::history::{Event, History, Owner};
use crate::support::{Call, Dice, Fault, Random};

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
    NotificationLost,
    // What is done to processes.
    Killed,
    CutOff,
    Refused,
    TrustsTooLong,
    ShutDown,
    DroppedConsumer,
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
}

pub(crate) const KINDS: [Kind; 28] = [
    Kind::FailedBefore,
    Kind::AnswerLost,
    Kind::InDoubtNotApplied,
    Kind::Slow,
    Kind::AppliedLate,
    Kind::Overtaken,
    Kind::NotificationLost,
    Kind::Killed,
    Kind::CutOff,
    Kind::Refused,
    Kind::TrustsTooLong,
    Kind::ShutDown,
    Kind::DroppedConsumer,
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
];

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
pub(crate) struct Run(Arc<Mutex<State>>);

pub(crate) struct State {
    pub(crate) random: Random,
    pub(crate) history: History,
    pub(crate) counts: Counts,
    trace: Trace,
    began: Instant,
    /// Of a thousand calls, so many go wrong.
    rate: usize,
    /// Nothing goes wrong any more.
    is_calm: bool,
    calls: u64,
    /// The greatest number of a call that was applied.
    applied: u64,
    numbers: u64,
}

impl Run {
    /// Inside of a runtime whose time is paused.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let rates = [0, 20, 100, 250];
        let rate = rates[random.below(rates.len())];
        Self(Arc::new(Mutex::new(State {
            random,
            history: History::default(),
            counts: Counts::default(),
            trace: Trace::new(),
            began: Instant::now(),
            rate,
            is_calm: false,
            calls: 0,
            applied: 0,
            numbers: 0,
        })))
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap())
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
        tokio::time::sleep(self.time_below(millis)).await;
    }

    /// Before a call is made again: time passes only while nobody has anything to do.
    pub(crate) async fn pause(&self, error: &Error) {
        assert!(error.is_transient(), "{error}");
        self.note(&"again");
        self.sleep_below(200).await;
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
        self.with(|it| {
            it.note(&event);
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

    /// Leaves something in the trace.
    pub(crate) fn note(&self, what: &impl Hash) {
        self.with(|it| it.note(what));
    }

    pub(crate) fn calm_down(&self) {
        self.with(|it| it.is_calm = true);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.with(|it| it.is_calm)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.with(|it| it.began.elapsed())
    }

    pub(crate) fn trace(&self) -> u64 {
        self.with(|it| it.trace.finish())
    }
}

impl State {
    pub(crate) fn count(&mut self, kind: Kind) {
        self.counts.0[kind as usize] += 1;
    }

    fn note(&mut self, what: &impl Hash) {
        self.began.elapsed().as_micros().hash(&mut self.trace);
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
            let (short, long) = (time(60), time(2_500));
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
        self.with(|it| {
            it.note(&(call, fault));
            let kind = match fault {
                Some(Fault::Fail) => Some(Kind::FailedBefore),
                Some(Fault::Lose) => Some(Kind::AnswerLost),
                Some(Fault::Doubt) => Some(Kind::InDoubtNotApplied),
                Some(Fault::Slow(..)) => Some(Kind::Slow),
                Some(Fault::LateBy(_)) => Some(Kind::AppliedLate),
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
        self.with(|it| {
            it.note(&number);
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
}

/// FNV-1a over all that happened, with its time.
struct Trace(u64);

impl Trace {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Trace {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    // One step a number: a debug build runs many of them.
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    fn write_u128(&mut self, number: u128) {
        self.write_u64(number as u64);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(number.into());
    }
}
