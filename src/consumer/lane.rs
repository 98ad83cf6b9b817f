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

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::chunk::Event;
use super::control::{Shared, Status};
use super::end::End;
use super::fetch::fetch;
use super::keeper;
use super::mend::Mender;
use super::session::Session;
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
    /// The share of the prefetch that one read gets.
    pub(super) fetch_bytes: usize,
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
            fetch_bytes: 1 << 20,
        }
    }
}

/// Between an error that was reported and the next attempt.
pub(super) const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Lane {
    pub(super) flow: Flowstream,
    pub(super) shared: Arc<Shared>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) settings: Settings,
    pub(super) dead_letters: Option<Name>,
    index: usize,
    pub(super) group: Group,
    watch: Subscription,
    /// The lease that this lane had last. If its owner still has it, that is as good as dead.
    pub(super) former: Option<Lease>,
    /// The epoch that was fenced, until it is known by whom.
    pub(super) lost: Option<u64>,
    /// Of the storage, when it was seen last.
    pub(super) incarnation: Option<u64>,
    /// The last batch that was read: its offset and its time.
    pub(super) newest: Option<(u64, SystemTime)>,
}

impl Lane {
    pub(super) fn new(
        flow: Flowstream,
        shared: Arc<Shared>,
        events: mpsc::Sender<Event>,
        settings: Settings,
        dead_letters: Option<Name>,
        index: usize,
        group: Group,
    ) -> Self {
        Self {
            watch: flow
                .watch()
                .subscribe(&group.partition, settings.fetch_bytes),
            former: None,
            lost: None,
            incarnation: None,
            newest: None,
            flow,
            shared,
            events,
            settings,
            dead_letters,
            index,
            group,
        }
    }

    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            () = shared.until_stopped() => return,
            () = shared.polled_after(0) => {}
        }
        loop {
            self.shared.set_status(self.index, Status::Standby);
            let Some(session) = self.stand_by().await else {
                return self.let_go().await;
            };
            let epoch = session.lease().epoch;
            self.former = Some(session.lease().clone());
            self.shared.set_status(self.index, Status::Active { epoch });
            tracing::info!(group = %self.group, epoch, "active");

            let end = self.consume(session).await;
            tracing::info!(group = %self.group, epoch, ?end, "no longer active");
            match end {
                End::Fenced => self.lost = Some(epoch),
                End::Lapsed | End::InDoubt => {}
                End::Stuck => {
                    self.shared.set_status(self.index, Status::Idle);
                    // One that only waits for messages is polled at once when it is woken.
                    let polls = shared.idle_polls();
                    shared.wake();
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return self.let_go().await,
                        () = shared.polled_after(polls) => {}
                    }
                }
                End::Released => return,
                End::Closed => {
                    let closed = Error::closed(format!("{}: the storage is closed", self.group));
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => {}
                        _ = self.events.send(Event::Error(closed)) => {}
                    }
                    return;
                }
            }
        }
    }

    /// A lease that ended in another way than by giving it back is still held, where nobody has taken
    /// it over.
    async fn let_go(&self) {
        let Some(lease) = &self.former else { return };
        tokio::select! {
            biased;
            () = self.release(lease) => {}
            () = sleep(&**self.flow.clock(), self.settings.drain) => {}
        }
    }

    pub(super) async fn release(&self, lease: &Lease) {
        let storage = self.flow.storage();
        if let Err(error) = self.flow.retry(|| storage.release(lease)).await {
            tracing::warn!(%error, group = %self.group, "could not give the lease back");
        }
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
    async fn consume(&mut self, session: Arc<Session>) -> End {
        let ending = EndOnDrop(session.clone());
        let keeper = keeper::Keeper::new(self.flow.clone(), session.clone(), self.settings);
        let keeper = tokio::spawn(keeper.run());
        let shared = self.shared.clone();
        let end = {
            let mender = Mender::of(self, &session);
            tokio::select! {
                biased;
                end = session.until_ended() => Some(end),
                () = shared.until_stopped() => None,
                () = fetch(self, &session) => None,
                () = mender.run() => None,
            }
        };
        let end = match end {
            Some(end) => end,
            None => self.hand_over(&session, keeper).await,
        };
        drop(ending);
        end
    }

    /// Ends cleanly: waits for the handles that are still alive, writes what they said, and gives
    /// the lease back.
    async fn hand_over(&self, session: &Session, mut keeper: tokio::task::JoinHandle<()>) -> End {
        tokio::select! {
            biased;
            () = session.drained() => {}
            () = sleep(&**self.flow.clock(), self.settings.drain) => {
                tracing::warn!(group = %self.group, "gave up waiting for deliveries that are held");
            }
        }
        session.close();
        // It ends by itself once all is written, or its retries are used up.
        let _ = (&mut keeper).await;
        session.end(End::Released);
        if session.ended() == Some(End::Released) {
            self.release(session.lease()).await;
        }
        End::Released
    }

    /// Tells the consumer of an error. `None` if there is no point in going on.
    pub(super) async fn report(&self, error: Error) -> Option<()> {
        let is_over = error.kind() == ErrorKind::Closed;
        // A consumer that is gone does not want to know.
        let _ = self.events.send(Event::Error(error)).await;
        if is_over {
            return None;
        }
        sleep(&**self.flow.clock(), PAUSE).await;
        Some(())
    }

    /// Of this partition, in memory.
    pub(super) fn tail(&self) -> &Arc<Tail> {
        self.watch.tail()
    }

    pub(super) fn watch(&mut self) -> &mut Subscription {
        &mut self.watch
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
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
