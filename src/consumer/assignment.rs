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

use super::committer::Committer;
use super::partition::{ConsumerPartition, FormerLease, LastSeen};
use super::prefetch::Prefetch;
use super::redeliverer::Redeliverer;
use super::standby::{Standby, progress_went_back};
use super::status::Status;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind};
use crate::panics::unwound;
use crate::session::{End, Session};
use crate::storage::Lease;
use crate::watch::Subscription;

/// A consumer at one of its partitions.
pub(super) struct Assignment {
    at: Arc<ConsumerPartition>,
    watch: Subscription,
    seen: LastSeen,
    /// Nothing of it is under way any more.
    is_over: bool,
}

impl Assignment {
    pub(super) fn new(at: ConsumerPartition) -> Self {
        let watch = at.context.log_watch();
        Self {
            watch: watch.subscribe(&at.group.partition, at.settings.prefetch),
            seen: LastSeen::default(),
            is_over: false,
            at: Arc::new(at),
        }
    }

    pub(super) async fn run(mut self) {
        if unwound(pin!(self.work())).await.is_err() {
            let text = format!(
                "{}: the consumer, or the storage's driver, panicked: a defect, which should be reported; \
                 make the consumer anew",
                self.at.group
            );
            self.at.shared.fail(Error::new(ErrorKind::Internal, text));
        }
        Box::pin(self.let_go()).await;
        self.is_over = true;
    }

    /// Ends with a shutdown, and when the consumer cannot go on.
    async fn work(&mut self) {
        let shared = self.at.shared.clone();
        tokio::select! {
            biased;
            () = shared.until_stopped() => return,
            () = shared.first_poll() => {}
        }
        // In a box, which is there once somebody polls: it is large, and assignments may be many.
        Box::pin(self.stand_by_and_consume()).await;
    }

    async fn stand_by_and_consume(&mut self) {
        let shared = self.at.shared.clone();
        loop {
            self.at.shared.set_status(self.at.index, Status::Standby);
            let Some(session) = self.standby().stand_by().await else {
                return;
            };
            let epoch = session.lease().epoch;
            self.seen.former = Some(FormerLease::of(&session));
            self.at
                .shared
                .set_status(self.at.index, Status::Active { epoch });
            tracing::info!(group = %self.at.group, epoch, "active");

            let end = self.consume(&session).await;
            session.tell_of_silence();
            self.seen.former = Some(FormerLease::of(&session));
            self.let_go_of(&session);
            let lease = session.lease().clone();
            drop(session);
            tracing::info!(group = %self.at.group, epoch, ?end, "no longer active");
            match end {
                End::Fenced => self.seen.fenced = Some(epoch),
                End::Lapsed | End::InDoubt => {}
                End::WentBack => {
                    // It is known: the log need not be compared.
                    self.seen.newest = None;
                    let error = progress_went_back(&self.at.group);
                    if self.at.report(error).await.is_none() {
                        return;
                    }
                }
                End::Stuck => {
                    self.at.shared.set_status(self.at.index, Status::Idle);
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return,
                        () = shared.next_poll() => {}
                    }
                }
                End::Released => return,
                End::Closed => return self.at.shared.fail(end.error(&lease)),
            }
        }
    }

    /// The one way in which a lease is given back; bounded, also where the storage hangs. One that
    /// ended in another way is still held, where nobody has taken it over.
    async fn let_go(&mut self) {
        let Some(former) = self.seen.former.take() else {
            return;
        };
        tokio::select! {
            biased;
            () = self.release(&former.lease) => {}
            () = sleep(&**self.at.context.clock(), self.at.settings.last_write()) => {
                tracing::warn!(group = %self.at.group, "gave up giving the lease back");
            }
        }
    }

    async fn release(&self, lease: &Lease) {
        let (context, storage) = (&self.at.context, self.at.context.storage());
        let releasing = context.retry(|| async {
            let _permit = context.claim_permit().await;
            storage.release(lease).await
        });
        if let Err(error) = releasing.await {
            tracing::warn!(%error, group = %self.at.group, "could not give the lease back");
        }
    }

    fn standby(&mut self) -> Standby<'_> {
        let Self {
            at, watch, seen, ..
        } = self;
        Standby::new(at, watch, seen)
    }

    /// Nothing is handed out under a lease that ended.
    fn let_go_of(&self, session: &Session) {
        self.at.shared.inbox().clear(self.at.index);
        self.at.shared.let_go_of(session);
    }

    /// Consumes under a lease until that ends.
    async fn consume(&mut self, session: &Arc<Session>) -> End {
        let ending = EndOnDrop(session.clone());
        let Self {
            at, watch, seen, ..
        } = self;
        let committer = Committer::new(at.context.clone(), session.clone(), at.settings);
        let committer = tokio::spawn(committer.run());
        let end = {
            let redeliverer = Redeliverer::new(at.clone(), session.clone());
            let prefetch = Prefetch::new(at, watch, seen, session);
            tokio::select! {
                biased;
                end = session.until_ended() => Some(end),
                () = at.shared.until_stopped() => None,
                () = prefetch.run() => None,
                () = redeliverer.run() => None,
            }
        };
        let end = match end {
            Some(end) => end,
            None => self.hand_over(session, committer).await,
        };
        drop(ending);
        end
    }

    /// Ends cleanly: waits for the handles that are still alive, and writes what they said. The lease
    /// is still held then.
    async fn hand_over(
        &self,
        session: &Session,
        mut committer: tokio::task::JoinHandle<()>,
    ) -> End {
        let clock = self.at.context.clock();
        tokio::select! {
            biased;
            () = session.drained() => {}
            () = sleep(&**clock, self.at.settings.drain) => {
                tracing::warn!(group = %self.at.group, "gave up waiting for deliveries that are held");
            }
        }
        session.close();
        // It ends by itself once all is written, or its retries are used up.
        tokio::select! {
            biased;
            _ = &mut committer => {}
            () = sleep(&**clock, self.at.settings.last_write()) => {
                tracing::warn!(group = %self.at.group, "gave up writing the last commits");
                committer.abort();
            }
        }
        session.end(End::Released);
        session.ended().unwrap_or(End::Released)
    }
}

/// One that is dropped with its runtime leaves an error: its consumer is not to wait for ever, nor to
/// end as if it had been shut down.
impl Drop for Assignment {
    fn drop(&mut self) {
        if !self.is_over {
            let text = format!(
                "{}: the runtime that the consumer ran on has ended: make the consumer on one that goes \
                 on",
                self.at.group
            );
            self.at.shared.fail(Error::closed(text));
        }
        self.at.shared.set_status(self.at.index, Status::Closed);
    }
}

/// A assignment that is dropped with its runtime lets nobody wait for its session.
struct EndOnDrop(Arc<Session>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end(End::Closed);
    }
}
