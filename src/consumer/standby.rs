//! Waiting for the lease of a group, and taking it.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::partition::{ConsumerPartition, FormerLease, LastSeen};
use crate::clock::sleep;
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;
use crate::storage::{Claim, Group, GroupState, Id, Liveness, Over, Read, StoredBatch};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::watch::{Signal, Subscription};

/// How often a standby looks whether an owner lives, while messages are pending.
const LOOK: Duration = Duration::from_millis(200);

/// For how long a lease has stood still.
#[derive(Default)]
struct Stillness {
    /// Its epoch and generation, as they were seen last.
    seen: Option<(u64, u64)>,
    /// Since when a message is pending with these.
    pending_since: Option<Duration>,
}

/// How a standby goes on.
enum NextStep {
    Claim(Option<Over>),
    Look,
    /// A look was made, which began then.
    Saw((Duration, Result<GroupState>)),
}

/// A consumer that waits for the lease of a partition.
pub(super) struct Standby<'a> {
    at: &'a ConsumerPartition,
    watch: &'a mut Subscription,
    seen: &'a mut LastSeen,
}

impl<'a> Standby<'a> {
    pub(super) fn new(
        at: &'a ConsumerPartition,
        watch: &'a mut Subscription,
        seen: &'a mut LastSeen,
    ) -> Self {
        Self { at, watch, seen }
    }

    /// Waits for the lease, and claims it. `None` after a shutdown, and if the storage is closed.
    pub(super) async fn stand_by(&mut self) -> Option<Arc<Session>> {
        let at = self.at;
        let (clock, shared) = (at.context.clock(), &at.shared);
        let owner = Id::random();
        let mut stillness = Stillness::default();
        let mut signal = self.watch.now();
        let mut next = NextStep::Claim(None);
        loop {
            let (began, looked) = match next {
                NextStep::Claim(over) => {
                    signal = self.watch.now();
                    (clock.now(), self.claim(owner, over).await?)
                }
                NextStep::Look => {
                    signal = self.watch.now();
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return None,
                        look = self.at.context.lease_watch().look(&self.at.group, clock.now()) => look,
                    }
                }
                NextStep::Saw(look) => look,
            };
            let state = match looked {
                Ok(state) => state,
                Err(error) => {
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return None,
                        go_on = self.at.report(error) => go_on?,
                    }
                    next = NextStep::Look;
                    continue;
                }
            };
            self.compare(&state).await?;
            if state.owner == Some(owner) {
                return Some(self.at.session(owner, &state, began));
            }
            if let Some(claim) = self.find_claim(&state, began, &mut stillness) {
                next = claim;
                continue;
            }
            next = tokio::select! {
                biased;
                () = shared.until_stopped() => return None,
                next = self.standing(&state, began, signal, &mut stillness.pending_since) => next,
            };
        }
    }

    /// The claim that may be made of a lease that stands so, as a look shows that began then.
    fn find_claim(
        &self,
        state: &GroupState,
        began: Duration,
        stillness: &mut Stillness,
    ) -> Option<NextStep> {
        let over_another = Some(Over::another(state.epoch, state.generation));
        let Some(owner) = state.owner else {
            return Some(NextStep::Claim(None));
        };
        if let Some(former) = &self.seen.former
            && owner == former.lease.owner
        {
            return Some(NextStep::Claim(Some(former.over(state))));
        }
        if state.liveness == Liveness::Dead {
            return Some(NextStep::Claim(over_another));
        }
        let seen = (state.epoch, state.generation);
        if stillness.seen.replace(seen) != Some(seen) || !state.is_pending() {
            stillness.pending_since = None;
        }
        if state.is_pending() {
            // From now on: what the look shows may have been written after it began.
            let now = || self.at.context.clock().now();
            let since = *stillness.pending_since.get_or_insert_with(now);
            if began >= since.saturating_add(self.at.settings.lease) {
                return Some(NextStep::Claim(over_another));
            }
        }
        None
    }

    /// Waits until there is a reason to look at the lease again: it was given back, or a message is
    /// pending. Then it looks now and then, together with the others of the process: soon where the
    /// death of the owner would be seen, and else so often that it takes over soon after a lease has
    /// passed since the owner's last write; not with each message that comes.
    async fn standing(
        &mut self,
        state: &GroupState,
        began: Duration,
        known: Signal,
        since: &mut Option<Duration>,
    ) -> NextStep {
        let at = self.at;
        let (clock, lease_watch) = (at.context.clock(), at.context.lease_watch());
        let (group, lease) = (&at.group, at.settings.lease);
        let pace = match state.liveness {
            Liveness::Unknown => lease / 20,
            Liveness::Alive | Liveness::Dead => LOOK.min(lease / 20),
        };
        let mut look = None;
        loop {
            let news = self.watch.now();
            if news.releases != known.releases || news.missed != known.missed {
                return NextStep::Look;
            }
            if news.end > state.bounds.end {
                since.get_or_insert_with(|| clock.now());
            }
            if look.is_none()
                && let Some(since) = *since
            {
                let deadline = since.saturating_add(lease).max(began);
                let due = clock.now().saturating_add(pace).min(deadline);
                look = Some(Box::pin(lease_watch.look(group, due)));
            }
            let looked = async {
                match &mut look {
                    Some(look) => look.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                look = looked => return NextStep::Saw(look),
                () = self.watch.changed() => {}
            }
        }
    }

    /// Compares how the group stands with what this assignment knew when it lost its lease: whether somebody
    /// took it over, and whether the storage went back to an earlier state. `None` if the storage is
    /// closed.
    async fn compare(&mut self, state: &GroupState) -> Option<()> {
        if let Some(epoch) = self.seen.fenced.take() {
            let (group, owner) = (&self.at.group, state.owner);
            tracing::info!(%group, epoch, now = state.epoch, ?owner, "fenced");
        }
        let before = self.seen.incarnation.replace(state.incarnation);
        if before.is_some_and(|before| before != state.incarnation) {
            let group = &self.at.group;
            tracing::warn!(%group, "another storage than before, after a failover or a restore");
        }
        let Some((base, appended_at)) = self.seen.newest.take() else {
            return Some(());
        };
        let shared = self.at.shared.clone();
        tokio::select! {
            biased;
            // What was claimed meanwhile is given back where it is known.
            () = shared.until_stopped() => Some(()),
            // Until it is known: a lease that is claimed then may lapse, a loss must not go untold.
            go_on = async {
                loop {
                    match self.still_has(base, appended_at).await {
                        Ok(true) => return Some(()),
                        Ok(false) => return self.at.report(went_back(&self.at.group, base)).await,
                        Err(error) => self.at.report(error).await?,
                    }
                }
            } => go_on,
        }
    }

    /// Whether the log still has the batch that was seen there, and so all before it.
    async fn still_has(&self, base: u64, appended_at: SystemTime) -> Result<bool> {
        let _room = self.at.shared.reserve().await;
        let read = Read {
            partition: self.at.group.partition.clone(),
            from: base,
            max_bytes: 1,
            group: None,
        };
        let storage = self.at.context.storage();
        let fetched = self.at.context.retry(|| storage.read(read.clone())).await?;
        let is_same =
            |batch: &StoredBatch| batch.base_offset == base && batch.appended_at == appended_at;
        Ok(fetched.bounds.start > base || fetched.batches.first().is_some_and(is_same))
    }

    /// Claims, and sees it through: a claim that is under way when the consumer is shut down may
    /// succeed, and then the lease is given back. `None` after a shutdown.
    async fn claim(&mut self, owner: Id, over: Option<Over>) -> Option<Result<GroupState>> {
        let claim = Claim {
            group: self.at.group.clone(),
            owner,
            over,
        };
        let storage = self.at.context.storage();
        let has_begun = AtomicBool::new(false);
        let (context, begins) = (&self.at.context, &has_begun);
        let mut claiming = pin!(context.retry(|| async {
            let _permit = context.claim_permit().await;
            begins.store(true, Ordering::Relaxed);
            storage.claim(claim.clone()).await
        }));
        tokio::select! {
            biased;
            state = &mut claiming => return Some(state),
            () = self.at.shared.until_stopped() => {}
        }
        if !has_begun.load(Ordering::Relaxed) {
            return None;
        }
        tokio::select! {
            biased;
            state = claiming => if let Ok(state) = state && state.owner == Some(owner) {
                self.seen.former = Some(FormerLease {
                    lease: self.at.lease(owner, state.epoch),
                    handed_out_to: 0,
                });
            },
            () = sleep(&**self.at.context.clock(), self.at.settings.last_write()) => {}
        }
        None
    }
}

impl FormerLease {
    /// What the consumer claims its own lease over: begun was what it has handed out.
    fn over(&self, state: &GroupState) -> Over {
        let next = state.next_pending();
        Over {
            counts_attempt: next.is_some_and(|next| next < self.handed_out_to),
            ..Over::another(state.epoch, state.generation)
        }
    }
}

/// What a commit has shown.
pub(super) fn progress_went_back(group: &Group) -> Error {
    Error::new(
        ErrorKind::Data,
        format!(
            "{group}: the storage went back to an earlier state, in a failover or a restore: less is \
             done there than this consumer had committed, and what it read since may have been of the \
             state before; it goes on where the group stands now"
        ),
    )
}

fn went_back(group: &Group, offset: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!(
            "{group}: the storage went back to an earlier state, in a failover or a restore: what \
             this consumer read at offset {offset} is lost, and other messages may have taken its \
             place; it goes on where the group stands now"
        ),
    )
}
