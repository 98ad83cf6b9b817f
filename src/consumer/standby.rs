//! Waiting for the lease of a group, and taking it.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::lane::{Former, Lane};
use super::session::Session;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Claim, Group, GroupState, Id, Liveness, Over, Read, StoredBatch};
use crate::watch::Signal;

/// How often a standby looks whether an owner lives, while messages are pending.
const LOOK: Duration = Duration::from_millis(200);

/// How a standby goes on.
enum Next {
    Claim(Option<Over>),
    Look,
    /// A look was made, which began then.
    Saw((Duration, Result<GroupState>)),
}

impl Lane {
    /// Waits for the lease, and claims it. `None` after a shutdown, and if the storage is closed.
    pub(super) async fn stand_by(&mut self) -> Option<Arc<Session>> {
        let (clock, shared) = (self.flow.clock().clone(), self.shared.clone());
        let owner = Id::random();
        // What was seen last, and since when a message is pending with it.
        let mut seen: Option<(u64, u64)> = None;
        let mut pending_since: Option<Duration> = None;
        let mut signal = self.watch().now();
        let mut next = Next::Claim(None);
        loop {
            let (began, looked) = match next {
                Next::Claim(over) => {
                    signal = self.watch().now();
                    (clock.now(), self.claim(owner, over).await?)
                }
                Next::Look => {
                    signal = self.watch().now();
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return None,
                        look = self.flow.vigil().look(&self.group, clock.now()) => look,
                    }
                }
                Next::Saw(look) => look,
            };
            let state = match looked {
                Ok(state) => state,
                Err(error) => {
                    tokio::select! {
                        biased;
                        () = shared.until_stopped() => return None,
                        go_on = self.report(error) => go_on?,
                    }
                    next = Next::Look;
                    continue;
                }
            };
            self.compare(&state).await?;
            if state.owner == Some(owner) {
                return Some(self.session(owner, &state, began));
            }
            let now = (state.epoch, state.generation);
            if state.owner.is_none() {
                next = Next::Claim(None);
                continue;
            }
            if let Some(former) = &self.former
                && state.owner == Some(former.lease.owner)
            {
                next = Next::Claim(Some(former.over(&state)));
                continue;
            }
            if state.liveness == Liveness::Dead {
                next = Next::Claim(Some(Over::another(state.epoch, state.generation)));
                continue;
            }
            if seen.replace(now) != Some(now) {
                pending_since = None;
            }
            if state.is_pending() {
                // From now on: what the look shows may have been written after it began.
                let since = *pending_since.get_or_insert_with(|| clock.now());
                if began >= since.saturating_add(self.settings.lease) {
                    next = Next::Claim(Some(Over::another(state.epoch, state.generation)));
                    continue;
                }
            } else {
                pending_since = None;
            }
            next = tokio::select! {
                biased;
                () = shared.until_stopped() => return None,
                next = self.standing(&state, began, signal, &mut pending_since) => next,
            };
        }
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
    ) -> Next {
        let (clock, vigil) = (self.flow.clock().clone(), self.flow.vigil().clone());
        let (group, lease) = (self.group.clone(), self.settings.lease);
        let pace = match state.liveness {
            Liveness::Unknown => lease / 20,
            Liveness::Alive | Liveness::Dead => LOOK.min(lease / 20),
        };
        let mut look = None;
        loop {
            let news = self.watch().now();
            if news.releases != known.releases || news.missed != known.missed {
                return Next::Look;
            }
            if news.end > state.bounds.end {
                since.get_or_insert_with(|| clock.now());
            }
            if look.is_none()
                && let Some(since) = *since
            {
                let deadline = since.saturating_add(lease).max(began);
                let due = clock.now().saturating_add(pace).min(deadline);
                look = Some(Box::pin(vigil.look(&group, due)));
            }
            let looked = async {
                match &mut look {
                    Some(look) => look.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                look = looked => return Next::Saw(look),
                () = self.watch().changed() => {}
            }
        }
    }

    /// What the fetch has seen of the log.
    pub(super) fn saw(&mut self, batch: Option<&StoredBatch>) {
        if let Some(batch) = batch {
            self.newest = Some((batch.base_offset, batch.appended_at));
        }
    }

    /// Compares how the group stands with what this lane knew when it lost its lease: whether somebody
    /// took it over, and whether the storage went back to an earlier state. `None` if the storage is
    /// closed.
    async fn compare(&mut self, state: &GroupState) -> Option<()> {
        if let Some(epoch) = self.lost.take() {
            let (group, owner) = (&self.group, state.owner);
            tracing::info!(%group, epoch, now = state.epoch, ?owner, "fenced");
        }
        let before = self.incarnation.replace(state.incarnation);
        if before.is_some_and(|before| before != state.incarnation) {
            let group = &self.group;
            tracing::warn!(%group, "another storage than before, after a failover or a restore");
        }
        let Some((base, appended_at)) = self.newest.take() else {
            return Some(());
        };
        let shared = self.shared.clone();
        tokio::select! {
            biased;
            // What was claimed meanwhile is given back where it is known.
            () = shared.until_stopped() => Some(()),
            // Until it is known: a lease that is claimed then may lapse, a loss must not go untold.
            go_on = async {
                loop {
                    match self.still_has(base, appended_at).await {
                        Ok(true) => return Some(()),
                        Ok(false) => return self.report(went_back(&self.group, base)).await,
                        Err(error) => self.report(error).await?,
                    }
                }
            } => go_on,
        }
    }

    /// Whether the log still has the batch that was seen there, and so all before it.
    async fn still_has(&self, base: u64, appended_at: SystemTime) -> Result<bool> {
        let _room = self.shared.reserve().await;
        let read = Read {
            partition: self.group.partition.clone(),
            from: base,
            max_bytes: 1,
            group: None,
        };
        let storage = self.flow.storage();
        let fetched = self.flow.retry(|| storage.read(read.clone())).await?;
        let is_same =
            |batch: &StoredBatch| batch.base_offset == base && batch.appended_at == appended_at;
        Ok(fetched.bounds.start > base || fetched.batches.first().is_some_and(is_same))
    }

    /// Claims, and sees it through: a claim that is under way when the consumer is shut down may
    /// succeed, and then the lease is given back. `None` after a shutdown.
    async fn claim(&mut self, owner: Id, over: Option<Over>) -> Option<Result<GroupState>> {
        let claim = Claim {
            group: self.group.clone(),
            owner,
            over,
        };
        let storage = self.flow.storage();
        let has_begun = AtomicBool::new(false);
        let (flow, begins) = (&self.flow, &has_begun);
        let mut claiming = pin!(flow.retry(|| async {
            let _turn = flow.turn().await;
            begins.store(true, Ordering::Relaxed);
            storage.claim(claim.clone()).await
        }));
        tokio::select! {
            biased;
            state = &mut claiming => return Some(state),
            () = self.shared.until_stopped() => {}
        }
        if !has_begun.load(Ordering::Relaxed) {
            return None;
        }
        tokio::select! {
            biased;
            state = claiming => if let Ok(state) = state && state.owner == Some(owner) {
                self.former = Some(Former {
                    lease: self.lease(owner, state.epoch),
                    handed_out_to: 0,
                });
            },
            () = sleep(&**self.flow.clock(), self.settings.last_write()) => {}
        }
        None
    }
}

impl Former {
    pub(super) fn of(session: &Session) -> Self {
        Self {
            lease: session.lease().clone(),
            handed_out_to: session.handed_out_to(),
        }
    }

    /// What this lane claims its own lease over: begun was what it has handed out.
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
