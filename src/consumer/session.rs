//! One lease of a consumer, from the claim to the end: shared by all who have a part in it.

mod again;
#[cfg(feature = "postgres")]
mod entrusted;
mod tell;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};

use super::acks::Acks;
use super::control::Shared;
use super::end::End;
use super::lane::Lane;
use super::round::Round;
use crate::error::Error;
use crate::flow::Flowstream;
use crate::name::Name;
use crate::ranges::Progress;
use crate::storage::{GroupState, Lease, Storage, Verdicts};

/// A group keeps at most so many acked ranges beyond its position, and so many messages wait to be
/// retried; then nothing new is handed out until there are less.
pub(super) const MAX_BEYOND: usize = 1000;

/// Shared by the deliveries, the consumer that hands them out, the fetcher and the keeper.
pub(crate) struct Session {
    lease: Lease,
    flow: Flowstream,
    /// That of the consumer.
    runtime: Handle,
    /// Of the consumer that has the lease.
    shared: Arc<Shared>,
    /// Where messages go that cannot be done.
    dead_letters: Option<Name>,
    /// How often one may be begun.
    max_attempts: u32,
    acks: Mutex<Acks>,
    /// For the keeper: there is something to write, or something changed.
    work: Notify,
    /// For the mender: something was dropped.
    dropped: Notify,
    /// For the fetcher: the pause is over.
    resumed: Notify,
    /// For the mender: something else is due first.
    due: Notify,
    /// For the mender: something was begun too often.
    exhausted: Notify,
    /// For the drain: a handle is gone.
    settled: Notify,
    ended: watch::Sender<Option<End>>,
    /// The same as `ended`, for the hot path.
    dead: AtomicBool,
    /// Whether too much is done beyond the position, or waits to be retried, so that nothing new is
    /// handed out: see [`tell`].
    paused: AtomicU8,
    told: tell::Told,
    /// Of the consumer's partitions, the one of this lease.
    partition: usize,
    /// Handles given out. Only the consumer counts.
    handed_out: AtomicU64,
    /// One more than the greatest offset among them. Only the consumer writes it.
    handed_out_to: AtomicU64,
    /// Handles of messages that are moved away.
    moves: AtomicU64,
    /// Where the log ends, as far as the fetcher knows.
    log_end: AtomicU64,
    /// When the last write of the owner that succeeded began, in microseconds of the clock.
    wrote_at: AtomicU64,
    draining: AtomicBool,
    closing: AtomicBool,
}

impl Session {
    /// A lease that a lane was given by a claim that began then.
    pub(super) fn new(lane: &Lane, lease: Lease, state: &GroupState, began: Duration) -> Self {
        let acks = Acks::new(state.progress.clone(), &state.attempts);
        Self {
            lease,
            flow: lane.flow.clone(),
            runtime: Handle::current(),
            shared: lane.shared.clone(),
            dead_letters: lane.dead_letters.clone(),
            max_attempts: lane.settings.max_attempts.unwrap_or(u32::MAX),
            acks: Mutex::new(acks),
            work: Notify::new(),
            dropped: Notify::new(),
            resumed: Notify::new(),
            due: Notify::new(),
            exhausted: Notify::new(),
            settled: Notify::new(),
            ended: watch::Sender::new(None),
            dead: AtomicBool::new(false),
            paused: AtomicU8::new(0),
            told: tell::Told::default(),
            partition: lane.index,
            handed_out: AtomicU64::new(0),
            handed_out_to: AtomicU64::new(0),
            moves: AtomicU64::new(0),
            log_end: AtomicU64::new(state.bounds.end),
            wrote_at: AtomicU64::new(began.as_micros() as u64),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        }
    }

    pub(crate) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(crate) fn is_of(&self, storage: &Arc<dyn Storage>) -> bool {
        Arc::ptr_eq(self.flow.storage(), storage)
    }

    pub(crate) fn flow(&self) -> &Flowstream {
        &self.flow
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn dead_letters(&self) -> Option<&Name> {
        self.dead_letters.as_ref()
    }

    // Verdicts.

    /// Done: written soon, by the way.
    pub(crate) fn ack(&self, offset: u64) {
        let mut acks = self.acks();
        let first = !acks.has_pending();
        if acks.done_next(offset) {
            drop(acks);
            self.finished(first);
        } else {
            acks.done(offset..offset + 1);
            self.finish(acks, offset, first);
        }
    }

    /// Done, and all before it if it is `through`: written now, and whoever waits for the round is
    /// told.
    pub(crate) fn commit(&self, offset: u64, through: bool) -> Arc<Round> {
        let mut acks = self.acks();
        // Whoever made the round has woken the keeper for it.
        let first = !acks.is_awaited();
        let round = acks.next_round();
        match through {
            true => acks.done_through(offset + 1),
            false => acks.done(offset..offset + 1),
        }
        let end = self.ended();
        self.finish(acks, offset, first);
        if let Some(end) = end {
            round.complete(Err(end.error(&self.lease)));
        }
        round
    }

    /// Done, and durable: written together with the messages that it rode in.
    pub(crate) fn rode(&self, offset: u64) {
        let mut acks = self.acks();
        acks.written(offset..offset + 1);
        self.finish(acks, offset, false);
    }

    /// Let go of without a verdict.
    pub(crate) fn dropped(&self, offset: u64) {
        let mut acks = self.acks();
        let is_known = match acks.trusts().let_go(offset) {
            Some(is_known) => is_known,
            None => {
                acks.let_go(offset);
                true
            }
        };
        self.finish(acks, offset, false);
        if !is_known {
            self.give_up();
        }
    }

    fn finish(&self, mut acks: MutexGuard<'_, Acks>, offset: u64, wake_keeper: bool) {
        acks.finish(offset);
        self.update(acks);
        self.finished(wake_keeper);
    }

    /// A handle is gone, and that stands in the book.
    #[inline]
    fn finished(&self, wake_keeper: bool) {
        if wake_keeper {
            self.work.notify_one();
        }
        if self.draining.load(Ordering::Relaxed) {
            self.settled.notify_one();
        }
    }

    /// Tells whoever has to know that the book has changed.
    fn update(&self, mut acks: MutexGuard<'_, Acks>) {
        let has_dropped = acks.has_dropped();
        let retries = acks.retries().scheduled().len();
        let change = self.weigh(acks.progress().acked().len(), retries);
        let warning = acks.warning();
        let held = match change {
            Some(_) => acks.first_held(self.handed_out_to()),
            None => None,
        };
        drop(acks);
        self.warn(warning);
        if has_dropped {
            self.dropped.notify_one();
        }
        if let Some(change) = change {
            self.tell_pause(change, held);
        }
    }

    // The hot path of the consumer.

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        !self.dead.load(Ordering::Acquire)
    }

    #[inline]
    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed) != 0
    }

    #[inline]
    pub(super) fn hand_out(&self, offset: u64) {
        // There is one consumer: nobody else writes these.
        if offset >= self.handed_out_to.load(Ordering::Relaxed) {
            self.handed_out_to.store(offset + 1, Ordering::Relaxed);
        }
        let handed_out = self.handed_out.load(Ordering::Relaxed) + 1;
        // Whoever sees the handle counted sees its offset, too.
        self.handed_out.store(handed_out, Ordering::Release);
    }

    /// One more than the greatest offset that was handed out.
    pub(super) fn handed_out_to(&self) -> u64 {
        self.handed_out_to.load(Ordering::Acquire)
    }

    pub(super) fn partition(&self) -> usize {
        self.partition
    }

    /// Waits while nothing new is to be handed out. Cancel safe.
    pub(super) async fn until_resumed(&self) {
        while self.is_paused() {
            self.resumed.notified().await;
        }
    }

    // The keeper and the fetcher.

    pub(super) fn progress(&self) -> Progress {
        self.acks().progress().clone()
    }

    pub(super) fn take_pending(&self) -> (Verdicts, Option<Arc<Round>>) {
        self.acks().take()
    }

    /// Where the group stands at least, as the storage has said.
    pub(super) fn durable_position(&self) -> u64 {
        self.acks().durable_position()
    }

    /// What was taken is written, by a call that began then, before which the storage had answered
    /// with this position; now it answered with that one.
    pub(super) fn wrote_pending(&self, began: Duration, before: u64, now: u64) {
        self.wrote(began);
        self.acks().wrote(now);
        if now < before {
            self.end(End::WentBack);
        }
    }

    pub(super) fn put_back(&self, verdicts: &Verdicts) {
        self.acks().put_back(verdicts);
    }

    pub(super) fn has_pending(&self) -> bool {
        self.acks().has_pending()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.acks().is_awaited()
    }

    pub(super) fn learn(&self, durable: &Progress) {
        let mut acks = self.acks();
        acks.learn(durable);
        self.update(acks);
    }

    /// Counts messages that are gone from the log as done.
    pub(super) fn skip(&self, gone: Range<u64>) {
        let mut acks = self.acks();
        acks.done(gone);
        self.update(acks);
        self.work.notify_one();
    }

    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// The fetcher found the end of the log here, in a read that began then. If that is before what
    /// was seen already, the storage went back to an earlier state, and the lease with it.
    pub(super) fn saw_end(&self, end: u64, began: Duration) {
        let idle = !self.is_behind();
        if self.log_end.fetch_max(end, Ordering::Relaxed) > end {
            return self.fence();
        }
        if idle && self.is_behind() {
            // After idling it goes on optimistically: the read saw the epoch.
            self.wrote_at
                .fetch_max(began.as_micros() as u64, Ordering::Relaxed);
            self.work.notify_one();
        }
    }

    /// The log goes on to here at least: known without a read, so it says nothing of the lease.
    pub(super) fn heard_of(&self, end: u64) {
        let idle = !self.is_behind();
        self.log_end.fetch_max(end, Ordering::Relaxed);
        if idle && self.is_behind() {
            self.work.notify_one();
        }
    }

    /// The end of the log, as far as this lease knows.
    pub(super) fn log_end(&self) -> u64 {
        self.log_end.load(Ordering::Relaxed)
    }

    /// Whether a message waits to be done, as the storage sees it.
    pub(super) fn is_behind(&self) -> bool {
        let acks = self.acks();
        let (end, progress) = (self.log_end.load(Ordering::Relaxed), acks.progress());
        acks.is_ahead() || end.saturating_sub(progress.position()) > progress.acked().count()
    }

    /// A write of the owner that began then has succeeded.
    pub(crate) fn wrote(&self, began: Duration) {
        self.wrote_at
            .fetch_max(began.as_micros() as u64, Ordering::Relaxed);
    }

    pub(super) fn wrote_at(&self) -> Duration {
        Duration::from_micros(self.wrote_at.load(Ordering::Relaxed))
    }

    /// Changes with each poll of the consumer and each verdict.
    pub(super) fn activity(&self) -> u64 {
        self.shared.polls().wrapping_add(self.acks().finished())
    }

    /// All handles that were ever made.
    fn handles(&self) -> u64 {
        self.handed_out.load(Ordering::Acquire) + self.moves.load(Ordering::Acquire)
    }

    /// Lets the keeper write what is left, and end.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.work.notify_one();
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
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
    pub(super) fn end(&self, end: End) {
        // Under the lock, so that no commit slips in between.
        let mut acks = self.acks();
        self.dead.store(true, Ordering::Release);
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert(end);
            first
        });
        let (_, round) = acks.take();
        drop(acks);
        if let Some(round) = round {
            round.complete(Err(self.end_error()));
        }
        self.work.notify_one();
        self.settled.notify_one();
        // It may have waited for this lease to go on.
        self.shared.wake();
    }

    pub(super) fn ended(&self) -> Option<End> {
        *self.ended.borrow()
    }

    pub(super) async fn until_ended(&self) -> End {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await;
        ended.ok().and_then(|end| *end).unwrap_or(End::Closed)
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Resolves once all handles that were given out are gone, and the transactions over that commits
    /// stand in; or the session has ended.
    pub(super) async fn drained(&self) {
        self.draining.store(true, Ordering::SeqCst);
        while self.is_live() && self.is_held() {
            self.settled.notified().await;
        }
    }

    fn is_held(&self) -> bool {
        let mut acks = self.acks();
        acks.finished() < self.handles() || !acks.trusts().is_empty()
    }

    pub(crate) fn end_error(&self) -> Error {
        let end = self.ended().unwrap_or(End::Closed);
        end.error(&self.lease)
    }

    // Nothing that holds this lock can panic halfway through a change.
    fn acks(&self) -> MutexGuard<'_, Acks> {
        self.acks.lock().unwrap_or_else(PoisonError::into_inner)
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
