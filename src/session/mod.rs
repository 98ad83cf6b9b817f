//! One lease of a consumer, from the claim to the end: shared by all who have a part in it.

mod commit;
mod dropped;
mod end;
mod holder;
mod in_doubt;
mod ledger;
#[cfg(all(test, shuttle))]
mod models;
mod open_transactions;
mod pausing;
mod phase;
mod redelivery;
mod reports;
mod retries;
mod round;
#[cfg(feature = "postgres")]
mod transactions;
mod verdicts;
mod warnings;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

pub use commit::{Commit, Committing};
pub(crate) use dropped::{Look, Patience};
pub(crate) use end::End;
pub(crate) use holder::{Holding, LeaseHolder};
pub(crate) use in_doubt::{InDoubt, Span};
use ledger::Ledger;
pub use pausing::Pause;
use pausing::Pausing;
pub(crate) use phase::Phase;
use phase::PhaseCell;
pub(crate) use round::Round;
use warnings::Told;

use crate::clock::Clock;
use crate::error::Error;
use crate::name::Name;
use crate::ranges::Progress;
use crate::storage::{GroupState, Lease, Storage, Verdicts};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// A lease that a consumer has. Shared by the deliveries, the consumer that hands them out, and the tasks
/// of its assignment.
pub(crate) struct Session {
    lease: Lease,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    /// The runtime of the consumer.
    runtime: Handle,
    holding: Holding,
    /// What became of the messages. No other lock is taken under it, and nothing is woken.
    ledger: Mutex<Ledger>,
    signals: Signals,
    phase: PhaseCell,
    /// Why it ended. It is set under the lock of the ledger, together with the phase.
    ended: watch::Sender<Option<End>>,
    pausing: Pausing,
    told: Told,
    handles: Handles,
    /// Where the log ends, as far as the prefetch knows.
    log_end: AtomicU64,
    /// When the last write of the owner that succeeded began, in microseconds of the clock.
    wrote_at: AtomicU64,
}

/// What the tasks of an assignment wait for. Each has one who waits, so one permit is enough: what is told
/// while nobody waits is not lost.
#[derive(Debug, Default)]
struct Signals {
    /// For the committer: there is something to write, or something changed.
    work: Notify,
    /// For the redeliverer: something was dropped.
    dropped: Notify,
    /// For the prefetch: the pause is over.
    resumed: Notify,
    /// For the redeliverer: something else is due first.
    due: Notify,
    /// For the redeliverer: something was begun too often.
    exhausted: Notify,
    /// For the drain: a handle is gone.
    settled: Notify,
}

/// Counts the handles that were made. Only the consumer counts those that are handed out, and only the
/// redeliverer those of messages that are moved away.
#[derive(Debug, Default)]
struct Handles {
    handed_out: AtomicU64,
    /// One more than the greatest offset that was handed out.
    handed_out_to: AtomicU64,
    /// Handles of messages that are moved away.
    moves: AtomicU64,
}

impl Session {
    /// A lease that a consumer was given by a claim that began then.
    pub(crate) fn new(
        lease: Lease,
        storage: Arc<dyn Storage>,
        clock: Arc<dyn Clock>,
        holding: Holding,
        state: &GroupState,
        began: Duration,
    ) -> Self {
        Self {
            lease,
            storage,
            clock,
            runtime: Handle::current(),
            holding,
            ledger: Mutex::new(Ledger::new(state.progress.clone(), &state.attempts)),
            signals: Signals::default(),
            phase: PhaseCell::new(),
            ended: watch::Sender::new(None),
            pausing: Pausing::default(),
            told: Told::default(),
            handles: Handles::default(),
            log_end: AtomicU64::new(state.bounds.end),
            wrote_at: AtomicU64::new(began.as_micros() as u64),
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn is_of(&self, storage: &Arc<dyn Storage>) -> bool {
        Arc::ptr_eq(&self.storage, storage)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn holder(&self) -> &Arc<dyn LeaseHolder> {
        &self.holding.holder
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn dead_letters(&self) -> Option<&Name> {
        self.holding.dead_letters.as_ref()
    }

    /// How often a message may be begun.
    fn max_attempts(&self) -> u32 {
        self.holding.max_attempts.unwrap_or(u32::MAX)
    }

    // The hot path of the consumer.

    #[inline]
    pub(crate) fn is_live(&self) -> bool {
        self.phase.get() < Phase::Ended
    }

    #[inline]
    pub(crate) fn is_paused(&self) -> bool {
        self.pausing.is_paused()
    }

    #[inline]
    pub(crate) fn hand_out(&self, offset: u64) {
        let handles = &self.handles;
        // Relaxed: there is one consumer, and nobody else writes these.
        if offset >= handles.handed_out_to.load(Ordering::Relaxed) {
            handles.handed_out_to.store(offset + 1, Ordering::Relaxed);
        }
        let handed_out = handles.handed_out.load(Ordering::Relaxed) + 1;
        // Release: whoever sees the handle counted sees its offset, too.
        handles.handed_out.store(handed_out, Ordering::Release);
    }

    /// How many messages were handed out.
    fn handed_out(&self) -> u64 {
        // Acquire: with the offsets of those that are counted.
        self.handles.handed_out.load(Ordering::Acquire)
    }

    /// One more than the greatest offset that was handed out.
    pub(crate) fn handed_out_to(&self) -> u64 {
        // Acquire: the offset of a handle that was seen counted.
        self.handles.handed_out_to.load(Ordering::Acquire)
    }

    pub(crate) fn partition(&self) -> usize {
        self.holding.partition
    }

    /// Waits while nothing new is to be handed out. Cancel safe.
    pub(crate) async fn until_resumed(&self) {
        while self.is_paused() {
            self.signals.resumed.notified().await;
        }
    }

    // The committer and the prefetch.

    pub(crate) fn progress(&self) -> Progress {
        self.ledger().progress().clone()
    }

    pub(crate) fn take_pending(&self) -> (Verdicts, Option<Arc<Round>>) {
        self.ledger().take()
    }

    /// Where the group stands at least, as the storage has said.
    pub(crate) fn durable_position(&self) -> u64 {
        self.ledger().durable_position()
    }

    /// What was taken is written, by a call that began then, before which the storage had answered
    /// with this position; now it answered with that one.
    pub(crate) fn wrote_pending(&self, began: Duration, before: u64, now: u64) {
        self.wrote(began);
        self.ledger().wrote(now);
        if now < before {
            self.end(End::WentBack);
        }
    }

    pub(crate) fn put_back(&self, verdicts: &Verdicts) {
        self.ledger().put_back(verdicts);
    }

    pub(crate) fn has_pending(&self) -> bool {
        self.ledger().has_pending()
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.ledger().is_awaited()
    }

    pub(crate) fn learn(&self, durable: &Progress) {
        let mut ledger = self.ledger();
        ledger.learn(durable);
        self.update(ledger);
    }

    /// Counts messages that are gone from the log as done.
    pub(crate) fn skip(&self, gone: Range<u64>) {
        let mut ledger = self.ledger();
        ledger.done(gone);
        self.update(ledger);
        self.signals.work.notify_one();
    }

    pub(crate) async fn work(&self) {
        self.signals.work.notified().await;
    }

    /// The prefetch found the end of the log here, in a read that began then. If that is before what
    /// was seen already, the storage went back to an earlier state, and the lease with it.
    pub(crate) fn saw_end(&self, end: u64, began: Duration) {
        let idle = !self.is_behind();
        if self.log_end.fetch_max(end, Ordering::Relaxed) > end {
            return self.fence();
        }
        if idle && self.is_behind() {
            // After idling it goes on optimistically: the read saw the epoch.
            self.wrote(began);
            self.signals.work.notify_one();
        }
    }

    /// The log goes on to here at least: known without a read, so it says nothing of the lease.
    pub(crate) fn heard_of(&self, end: u64) {
        let idle = !self.is_behind();
        self.log_end.fetch_max(end, Ordering::Relaxed);
        if idle && self.is_behind() {
            self.signals.work.notify_one();
        }
    }

    /// The end of the log, as far as this lease knows.
    pub(crate) fn log_end(&self) -> u64 {
        self.log_end.load(Ordering::Relaxed)
    }

    /// Whether a message waits to be done, as the storage sees it.
    pub(crate) fn is_behind(&self) -> bool {
        let ledger = self.ledger();
        let (end, progress) = (self.log_end.load(Ordering::Relaxed), ledger.progress());
        ledger.is_ahead() || end.saturating_sub(progress.position()) > progress.acked().count()
    }

    /// A write of the owner that began then has succeeded.
    pub(crate) fn wrote(&self, began: Duration) {
        // Relaxed: it is a time, and says nothing of other memory.
        self.wrote_at
            .fetch_max(began.as_micros() as u64, Ordering::Relaxed);
    }

    pub(crate) fn wrote_at(&self) -> Duration {
        Duration::from_micros(self.wrote_at.load(Ordering::Relaxed))
    }

    /// Changes with each poll of the consumer and each verdict.
    pub(crate) fn activity(&self) -> u64 {
        self.holder().polls().wrapping_add(self.ledger().finished())
    }

    /// All handles that were ever made.
    fn handles(&self) -> u64 {
        // Acquire: whoever counts one has made it before.
        self.handed_out() + self.handles.moves.load(Ordering::Acquire)
    }

    /// Lets the committer write what is left, and end.
    pub(crate) fn close(&self) {
        self.phase.advance(Phase::Closing);
        self.signals.work.notify_one();
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    // The end.

    pub(crate) fn fence(&self) {
        self.end(End::Fenced);
    }

    /// A write that messages of this lease are part of may still land, and nobody will settle it.
    pub(crate) fn give_up(&self) {
        self.end(End::InDoubt);
    }

    /// Ends the session, for the first reason that comes. Nothing more is handed out, and all who
    /// wait are told.
    pub(crate) fn end(&self, end: End) {
        // Under the lock, so that no commit slips in between.
        let mut ledger = self.ledger();
        self.phase.advance(Phase::Ended);
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(end);
            first
        });
        let (_, round) = ledger.take();
        drop(ledger);
        debug_assert_eq!(self.phase(), Phase::Ended, "nothing comes after the end");
        if let Some(round) = round {
            round.complete(Err(self.end_error()));
        }
        self.signals.work.notify_one();
        self.signals.settled.notify_one();
        // It may have waited for this lease to go on.
        self.holder().wake();
    }

    pub(crate) fn ended(&self) -> Option<End> {
        *self.ended.borrow()
    }

    pub(crate) async fn until_ended(&self) -> End {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|end| *end).unwrap_or(End::Closed)
    }

    /// Resolves once all handles that were given out are gone, and the transactions over that commits
    /// stand in; or the session has ended.
    pub(crate) async fn drained(&self) {
        self.phase.advance(Phase::Draining);
        while self.is_live() && self.is_held() {
            self.signals.settled.notified().await;
        }
    }

    fn is_held(&self) -> bool {
        let mut ledger = self.ledger();
        ledger.finished() < self.handles() || !ledger.transactions().is_empty()
    }

    pub(crate) fn end_error(&self) -> Error {
        let end = self.ended().unwrap_or(End::Closed);
        end.error(&self.lease)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("lease", &self.lease)
            .field("ended", &self.ended())
            .finish_non_exhaustive()
    }
}
