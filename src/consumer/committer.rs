//! Writes commits and keeps the lease: the only one who writes in the name of a session, but for
//! appends that commits ride in.
//!
//! Commits that come while a write is under way share the next one. Each write renews the lease;
//! without one it is renewed only while a message is pending, from half the lease on.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_core::future::BoxFuture;

use super::settings::{PAUSE, Settings};
use crate::clock::Clock;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::session::{End, Phase, Round, Session};

/// How long an `ack` may wait for company.
const LINGER: Duration = Duration::from_millis(50);

/// The one who writes in the name of a session.
pub(super) struct Committer {
    context: Arc<Context>,
    clock: Arc<dyn Clock>,
    session: Arc<Session>,
    settings: Settings,
    /// The last activity that was seen, and when.
    activity: (u64, Duration),
    /// After a write that failed there is no renewal before this.
    not_before: Duration,
}

/// What the committer waits for besides work.
type Timer = Option<(Duration, BoxFuture<'static, ()>)>;

impl Committer {
    pub(super) fn new(context: Arc<Context>, session: Arc<Session>, settings: Settings) -> Self {
        let clock = context.clock().clone();
        Self {
            activity: (session.activity(), clock.now()),
            not_before: Duration::ZERO,
            context,
            clock,
            session,
            settings,
        }
    }

    /// Ends with the session, or once it is closing and all is written.
    pub(super) async fn run(mut self) {
        let session = self.session.clone();
        let mut linger: Timer = None;
        let mut lease: Timer = None;
        loop {
            if session.ended().is_some() {
                return;
            }
            let mut write = session.is_awaited();
            if session.phase() >= Phase::Closing {
                if !session.has_pending() {
                    return;
                }
                write = true;
            }
            if !write {
                if session.has_pending() {
                    let due = || self.clock.now().saturating_add(LINGER);
                    linger.get_or_insert_with(|| self.timer(due()));
                }
                let due = self.lease_due();
                if lease.as_ref().map(|(at, _)| *at) > due || (lease.is_none() && due.is_some()) {
                    lease = due.map(|due| self.timer(due));
                }
                tokio::select! {
                    biased;
                    () = session.work() => continue,
                    () = fired(&mut linger) => write = session.has_pending(),
                    () = fired(&mut lease) => write = self.is_renewal_due(),
                }
            }
            if write {
                // The first that commits has woken this task, which goes before those that were ready
                // already: let them come along.
                step_back().await;
                linger = None;
                let written = tokio::select! {
                    biased;
                    written = self.write() => written,
                    // The write goes on, but what is handed out from now on would not be covered.
                    () = self.lapse() => continue,
                };
                if written.is_none() {
                    if session.phase() >= Phase::Closing {
                        return;
                    }
                    self.not_before = self.clock.now().saturating_add(PAUSE);
                }
            }
        }
    }

    /// One write: all commits that wait, or a renewal. `None` if it failed.
    async fn write(&self) -> Option<()> {
        let (verdicts, round) = self.session.take_pending();
        let waiting = Waiting {
            round,
            session: &self.session,
        };
        let (began, known) = (self.clock.now(), self.session.durable_position());
        let (storage, lease) = (self.context.storage(), self.session.lease());
        let written = self
            .context
            .retry(|| storage.commit(lease, &verdicts))
            .await;
        let result = match written {
            Ok(progress) => {
                self.session
                    .wrote_pending(began, known, progress.position());
                Ok(())
            }
            Err(error) => {
                match error.kind() {
                    ErrorKind::Fenced => self.session.fence(),
                    ErrorKind::Closed => self.session.end(End::Closed),
                    _ => {
                        let group = &lease.group;
                        tracing::warn!(%error, %group, "a commit failed; it goes with the next");
                        self.session.put_back(&verdicts);
                    }
                }
                Err(self.explain(error))
            }
        };
        let success = result.is_ok().then_some(());
        waiting.tell(result);
        success
    }

    /// What those are told whose write failed: the end of the lease, if it has ended. What an earlier
    /// attempt left in doubt stays so.
    fn explain(&self, error: Error) -> Error {
        match (self.session.ended(), error.in_doubt()) {
            (None, _) => error,
            (Some(_), false) => self.session.end_error(),
            (Some(_), true) => self.session.end_error().with_doubt(),
        }
    }

    /// When to look at the lease next; `None` while nothing is pending.
    fn lease_due(&self) -> Option<Duration> {
        if !self.session.is_behind() {
            return None;
        }
        let (renewal, now) = (self.renewal_due(), self.clock.now());
        if now < renewal || !self.is_stuck() {
            return Some(renewal);
        }
        // Renewed as soon as it moves again, if that is in time.
        let soon = now.saturating_add(self.settings.lease / 20);
        Some(soon.min(self.trusted_until()))
    }

    /// The lease is trusted from the start of the last write that succeeded, less a margin, so
    /// that it ends here before a standby's clock can say that it stood still for a whole lease.
    fn trusted_until(&self) -> Duration {
        let lease = self.settings.lease;
        self.session.wrote_at().saturating_add(lease - lease / 10)
    }

    fn renewal_due(&self) -> Duration {
        let half = self
            .session
            .wrote_at()
            .saturating_add(self.settings.lease / 2);
        // Not so late that the end of the trust is missed.
        half.max(self.not_before.min(self.trusted_until()))
    }

    fn is_stuck(&self) -> bool {
        let (seen, at) = self.activity;
        let until = at.saturating_add(self.settings.max_processing);
        // A drain has a bound of its own.
        self.session.activity() == seen
            && self.clock.now() > until
            && self.session.phase() < Phase::Draining
            && !self.session.only_waits()
    }

    /// Looks at the lease: whether to renew it now. Ends the session if it cannot be trusted.
    fn is_renewal_due(&mut self) -> bool {
        let now = self.clock.now();
        if !self.session.is_behind() || now < self.renewal_due() {
            return false;
        }
        let stuck = self.is_stuck();
        if now >= self.trusted_until() {
            if stuck {
                self.session
                    .tell_of_standstill(self.settings.max_processing);
            }
            self.session
                .end(if stuck { End::Stuck } else { End::Lapsed });
            return false;
        }
        self.session.tell_of_silence();
        self.session.tell_of_held();
        let activity = self.session.activity();
        if activity != self.activity.0 || self.session.only_waits() {
            self.activity = (activity, now);
        }
        !stuck
    }

    /// Ends the session when the lease can no longer be trusted.
    async fn lapse(&self) {
        loop {
            let trusted_until = self.trusted_until();
            if self.session.is_behind() && self.clock.now() >= trusted_until {
                return self.session.end(End::Lapsed);
            }
            self.clock.sleep_until(trusted_until).await;
            if !self.session.is_behind() {
                return std::future::pending().await;
            }
        }
    }

    fn timer(&self, due: Duration) -> (Duration, BoxFuture<'static, ()>) {
        (due, self.clock.sleep_until(due))
    }
}

/// Dropped with its runtime, or by a panic in the storage, it lets nobody wait for it. While the
/// session is closing, the assignment ends it.
impl Drop for Committer {
    fn drop(&mut self) {
        if self.session.phase() < Phase::Closing {
            self.session.end(End::Closed);
        }
    }
}

/// Those who wait for a write that was handed to the storage. If it ends without an answer, they are
/// told that, too, and that it is in doubt.
struct Waiting<'a> {
    round: Option<Arc<Round>>,
    session: &'a Session,
}

impl Waiting<'_> {
    fn tell(mut self, result: Result<()>) {
        if let Some(round) = self.round.take() {
            round.complete(result);
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(round) = self.round.take() {
            round.complete(Err(self.session.end_error().with_doubt()));
        }
    }
}

/// Goes behind the tasks that are ready. `yield_now` would also have the runtime look for I/O first,
/// a system call that takes longer than a commit in memory.
async fn step_back() {
    let mut is_behind = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

async fn fired(timer: &mut Timer) {
    match timer {
        Some((_, sleep)) => sleep.await,
        None => std::future::pending().await,
    }
    *timer = None;
}
