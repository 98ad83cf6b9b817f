//! The state machine of a consumer at one partition.
//!
//! ```text
//!            first poll             granted
//!   idle ───────────────▶ standby ───────────▶ active
//!    ▲                       ▲                 │  │  │
//!    │ stuck                 │ fenced, lapsed  │  │  │ shutdown
//!    └───────────────────────┼─────────────────┘  │  ▼
//!                            └────────────────────┘ draining ──▶ closed
//! ```
//!
//! A standby claims when the lease is free, when its owner is dead, or when epoch and generation
//! stood still, with a message pending, for a whole lease on its own monotonic clock. No clock is
//! compared with another's.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::control::{Shared, Status};
use super::end::End;
use super::fetch::fetch;
use super::inbox::Event;
use super::keeper;
use super::mend::Mender;
use super::session::Session;
use super::standby::progress_went_back;
use crate::caught::unwound;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind};
use crate::flow::Flowstream;
use crate::name::Name;
use crate::storage::{Group, GroupState, Id, Lease};
use crate::tail::Tail;
use crate::watch::Subscription;

/// What a consumer was built with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) lease: Duration,
    pub(super) max_processing: Duration,
    pub(super) drain: Duration,
    pub(super) redeliver_after: Duration,
    pub(super) max_attempts: Option<u32>,
    pub(super) prefetch: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            max_processing: Duration::from_secs(300),
            drain: Duration::from_secs(10),
            redeliver_after: Duration::from_secs(5),
            max_attempts: None,
            prefetch: 2 << 20,
        }
    }
}

/// What the last writes of a lease get at least, however short a shutdown waits for handles.
const LAST_WRITES: Duration = Duration::from_secs(10);

impl Settings {
    /// The last commits get as long, and giving the lease back, too.
    pub(super) fn last_write(&self) -> Duration {
        self.drain.max(LAST_WRITES) / 2
    }
}

/// Between an error that was reported and the next attempt.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Lane {
    pub(super) flow: Flowstream,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: Settings,
    pub(super) dead_letters: Option<Name>,
    pub(super) index: usize,
    pub(super) group: Group,
    watch: Subscription,
    /// The lease that this lane had last. If its owner still has it, that is as good as dead.
    pub(super) former: Option<Former>,
    /// The epoch that was fenced, until it is known by whom.
    pub(super) lost: Option<u64>,
    /// Of the storage, when it was seen last.
    pub(super) incarnation: Option<u64>,
    /// The last batch that was read: its offset and its time.
    pub(super) newest: Option<(u64, SystemTime)>,
    /// Nothing of it is under way any more.
    is_over: bool,
}

/// A lease that this lane had.
#[derive(Debug, Clone)]
pub(super) struct Former {
    pub(super) lease: Lease,
    /// One more than the greatest offset that was handed out under it.
    pub(super) handed_out_to: u64,
}

impl Lane {
    pub(super) fn new(
        flow: Flowstream,
        shared: Arc<Shared>,
        settings: Settings,
        dead_letters: Option<Name>,
        index: usize,
        group: Group,
    ) -> Self {
        Self {
            watch: flow.watch().subscribe(&group.partition, settings.prefetch),
            former: None,
            lost: None,
            incarnation: None,
            newest: None,
            is_over: false,
            flow,
            shared,
            settings,
            dead_letters,
            index,
            group,
        }
    }

    pub(super) async fn run(mut self) {
        if unwound(pin!(self.work())).await.is_err() {
            let text = format!(
                "{}: the consumer, or the storage's driver, panicked: a defect, which should be reported; \
                 make the consumer anew",
                self.group
            );
            self.shared.fail(Error::new(ErrorKind::Internal, text));
        }
        Box::pin(self.let_go()).await;
        self.is_over = true;
    }

    /// Ends with a shutdown, and when the consumer cannot go on.
    async fn work(&mut self) {
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            () = shared.until_stopped() => return,
            () = shared.first_poll() => {}
        }
        // In a box, which is there once somebody polls: it is large, and lanes may be many.
        Box::pin(self.stand_by_and_consume()).await;
    }

    async fn stand_by_and_consume(&mut self) {
        let shared = self.shared.clone();
        loop {
            self.shared.set_status(self.index, Status::Standby);
            let Some(session) = self.stand_by().await else {
                return;
            };
            let epoch = session.lease().epoch;
            self.former = Some(Former::of(&session));
            self.shared.set_status(self.index, Status::Active { epoch });
            tracing::info!(group = %self.group, epoch, "active");

            let end = self.consume(&session).await;
            session.tell_of_silence();
            self.former = Some(Former::of(&session));
            self.let_go_of(&session);
            let lease = session.lease().clone();
            drop(session);
            tracing::info!(group = %self.group, epoch, ?end, "no longer active");
            match end {
                End::Fenced => self.lost = Some(epoch),
                End::Lapsed | End::InDoubt => {}
                End::WentBack => {
                    // It is known: the log need not be compared.
                    self.newest = None;
                    let error = progress_went_back(&self.group);
                    if self.report(error).await.is_none() {
                        return;
                    }
                }
                End::Stuck => {
                    self.shared.set_status(self.index, Status::Idle);
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return,
                        () = shared.next_poll() => {}
                    }
                }
                End::Released => return,
                End::Closed => return self.shared.fail(end.error(&lease)),
            }
        }
    }

    /// The one way in which a lease is given back; bounded, also where the storage hangs. One that
    /// ended in another way is still held, where nobody has taken it over.
    async fn let_go(&mut self) {
        let Some(former) = self.former.take() else {
            return;
        };
        tokio::select! {
            biased;
            () = self.release(&former.lease) => {}
            () = sleep(&**self.flow.clock(), self.settings.last_write()) => {
                tracing::warn!(group = %self.group, "gave up giving the lease back");
            }
        }
    }

    async fn release(&self, lease: &Lease) {
        let (flow, storage) = (&self.flow, self.flow.storage());
        let releasing = flow.retry(|| async {
            let _turn = flow.turn().await;
            storage.release(lease).await
        });
        if let Err(error) = releasing.await {
            tracing::warn!(%error, group = %self.group, "could not give the lease back");
        }
    }

    /// Nothing is handed out under a lease that ended.
    fn let_go_of(&self, session: &Session) {
        self.shared.inbox().clear(self.index);
        self.shared.let_go_of(session);
    }

    pub(super) fn lease(&self, owner: Id, epoch: u64) -> Lease {
        Lease {
            group: self.group.clone(),
            owner,
            epoch,
        }
    }

    pub(super) fn session(&self, owner: Id, state: &GroupState, began: Duration) -> Arc<Session> {
        let lease = self.lease(owner, state.epoch);
        Arc::new(Session::new(self, lease, state, began))
    }

    /// Consumes under a lease until that ends.
    async fn consume(&mut self, session: &Arc<Session>) -> End {
        let ending = EndOnDrop(session.clone());
        let keeper = keeper::Keeper::new(self.flow.clone(), session.clone(), self.settings);
        let keeper = tokio::spawn(keeper.run());
        let shared = self.shared.clone();
        let end = {
            let mender = Mender::of(self, session);
            tokio::select! {
                biased;
                end = session.until_ended() => Some(end),
                () = shared.until_stopped() => None,
                () = fetch(self, session) => None,
                () = mender.run() => None,
            }
        };
        let end = match end {
            Some(end) => end,
            None => self.hand_over(session, keeper).await,
        };
        drop(ending);
        end
    }

    /// Ends cleanly: waits for the handles that are still alive, and writes what they said. The lease
    /// is still held then.
    async fn hand_over(&self, session: &Session, mut keeper: tokio::task::JoinHandle<()>) -> End {
        let clock = self.flow.clock();
        tokio::select! {
            biased;
            () = session.drained() => {}
            () = sleep(&**clock, self.settings.drain) => {
                tracing::warn!(group = %self.group, "gave up waiting for deliveries that are held");
            }
        }
        session.close();
        // It ends by itself once all is written, or its retries are used up.
        tokio::select! {
            biased;
            _ = &mut keeper => {}
            () = sleep(&**clock, self.settings.last_write()) => {
                tracing::warn!(group = %self.group, "gave up writing the last commits");
                keeper.abort();
            }
        }
        session.end(End::Released);
        session.ended().unwrap_or(End::Released)
    }

    /// Tells the consumer of an error. `None` if there is no point in going on.
    pub(super) async fn report(&self, error: Error) -> Option<()> {
        if error.kind() == ErrorKind::Closed {
            self.shared.fail(error);
            return None;
        }
        self.shared.inbox().room(self.index).await;
        self.give(Event::Error(error));
        sleep(&**self.flow.clock(), PAUSE).await;
        Some(())
    }

    /// Gives the consumer something to do, whether it polls or not. One that is shut down does not
    /// want to know.
    pub(super) fn give(&self, event: Event) {
        if self.shared.inbox().give(self.index, event) {
            self.shared.wake();
        }
    }

    /// The newest batches of this partition, in memory.
    pub(super) fn tail(&self) -> &Arc<Tail> {
        self.watch.tail()
    }

    pub(super) fn watch(&mut self) -> &mut Subscription {
        &mut self.watch
    }
}

/// One that is dropped with its runtime leaves an error: its consumer is not to wait for ever, nor to
/// end as if it had been shut down.
impl Drop for Lane {
    fn drop(&mut self) {
        if !self.is_over {
            let text = format!(
                "{}: the runtime that the consumer ran on has ended: make the consumer on one that goes \
                 on",
                self.group
            );
            self.shared.fail(Error::closed(text));
        }
        self.shared.set_status(self.index, Status::Closed);
    }
}

/// A lane that is dropped with its runtime lets nobody wait for its session.
struct EndOnDrop(Arc<Session>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(End::Closed);
    }
}
