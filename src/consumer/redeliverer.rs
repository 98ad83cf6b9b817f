//! Delivers messages again: those that are to be retried, and those that were dropped without a
//! verdict and hold the position up. Moves those away that were begun too often.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::chunk::{Chunk, Room};
use super::partition::ConsumerPartition;
use super::settings::PAUSE;
use crate::clock::sleep;
use crate::error::Result;
use crate::message::dead_letter::{self, Death};
use crate::message::{AppendError, Batch, Message};
use crate::name::Name;
use crate::ranges::Ranges;
use crate::session::{Look, Patience, Session};
use crate::storage::Read;

/// Delivers again what was dropped or is to be retried, under one lease.
pub(super) struct Redeliverer {
    at: Arc<ConsumerPartition>,
    session: Arc<Session>,
}

impl Redeliverer {
    pub(super) fn new(at: Arc<ConsumerPartition>, session: Arc<Session>) -> Self {
        Self { at, session }
    }

    /// Never ends by itself.
    pub(super) async fn run(self) {
        tokio::join!(self.mend_holes(), self.retry(), self.move_away());
    }

    /// Delivers again what was dropped, once nobody can be expected to do it otherwise.
    async fn mend_holes(&self) {
        let clock = self.at.context.clock();
        let patience = Patience {
            hole: self.at.settings.redeliver_after,
            longest: self.at.settings.max_processing,
        };
        loop {
            self.session.something_dropped().await;
            let Look { due, next } = self.session.look_at_dropped(patience);
            if !due.is_empty() {
                self.deliver_dropped(&due).await;
            } else if let Some(next) = next {
                clock.sleep_until(next).await;
            }
        }
    }

    async fn deliver_dropped(&self, due: &Ranges) {
        // A message may be done without this consumer's knowing.
        self.patiently(|| self.learn()).await;
        let holes = self.session.take_dropped(due);
        tracing::debug!(group = %self.at.group, ?holes, "delivering again");
        self.deliver(holes).await;
    }

    async fn learn(&self) -> Result<()> {
        let groups = std::slice::from_ref(&self.at.group);
        let states = self.at.context.storage().observe(groups).await?;
        match states.into_iter().next().flatten() {
            Some(state) if state.epoch == self.session.lease().epoch => {
                self.session.learn(&state.progress);
            }
            _ => self.session.fence(),
        }
        Ok(())
    }

    async fn retry(&self) {
        loop {
            let retries = self.session.retries().await;
            tracing::debug!(group = %self.at.group, ?retries, "delivering again");
            self.deliver(retries).await;
        }
    }

    /// Hands messages out again, but for those that were begun too often.
    async fn deliver(&self, mut offsets: Ranges) {
        for range in offsets.clone().iter() {
            for exhausted in self.session.exhaust(range).iter() {
                offsets.remove(exhausted);
            }
        }
        let mut read_to = 0;
        loop {
            let turn = || self.at.shared.redeliver();
            let Some(chunk) = self.read(&offsets, &mut read_to, turn).await else {
                return;
            };
            if !chunk.is_empty() {
                self.at.shared.deliver_again(chunk);
            }
        }
    }

    async fn move_away(&self) {
        loop {
            let offsets = self.session.exhausted().await;
            let Some(to) = self.session.dead_letters() else {
                // The builder refuses a limit without a place to go.
                return std::future::pending().await;
            };
            let mut read_to = 0;
            loop {
                // Dead letters hold what they were read with until they are written.
                let turn = || self.at.shared.move_away();
                let Some(mut chunk) = self.read(&offsets, &mut read_to, turn).await else {
                    break;
                };
                let mut letters = Vec::new();
                while let Some(delivery) = chunk.take() {
                    self.session.begin_move();
                    // The one that it would have been does not count.
                    let attempts = delivery.attempt() - 1;
                    let reason = format!("not done after {attempts} attempts");
                    let now = self.at.context.clock().wall();
                    let (message, timestamp, commit) = delivery.into_parts_at();
                    let death = Death {
                        timestamp,
                        attempts,
                        reason: &reason,
                        now,
                    };
                    letters.push(dead_letter::build(message, commit, to, &death));
                }
                if !letters.is_empty() {
                    self.send(to, letters).await;
                }
            }
        }
    }

    /// Tries until they are written, or the lease has ended: then they reach the next owner.
    async fn send(&self, to: &Name, letters: Vec<Message>) {
        let (stream, group) = (&self.at.group.partition.stream, &self.at.group.name);
        let partition = self.at.group.partition.index;
        let offsets: Ranges = letters
            .iter()
            .flat_map(Message::commits)
            .map(|commit| commit.offset()..commit.offset() + 1)
            .collect();
        let mut batch = Batch::from(letters);
        loop {
            let appender = self.at.context.appender();
            let appended = appender.append(to, batch, self.session.runtime()).await;
            let Err(AppendError { error, unsent, .. }) = appended else {
                break;
            };
            // What the runtime of others took along with it goes again on this one.
            if error.is_fenced() || !self.session.is_live() {
                return;
            }
            tracing::warn!(
                %error, %stream, partition, %group, %to,
                "messages that were tried too often cannot be moved yet"
            );
            batch = unsent;
            sleep(&**self.at.context.clock(), PAUSE * 10).await;
        }
        for offset in offsets.iter().flatten() {
            tracing::warn!(
                %stream, partition, %group, offset, max_attempts = self.at.settings.max_attempts, %to,
                "moved to the dead letters: it was not done after as many attempts as it may have"
            );
        }
    }

    /// The next batches that have some of these messages in them, from `read_to` on; each is read
    /// once. `None` behind the last.
    async fn read<T>(
        &self,
        offsets: &Ranges,
        read_to: &mut u64,
        turn: impl Fn() -> T,
    ) -> Option<Chunk>
    where
        T: Future<Output = Option<OwnedSemaphorePermit>>,
    {
        loop {
            let next = offsets.iter().find(|range| range.end > *read_to)?;
            let from = next.start.max(*read_to);
            let read = Read {
                partition: self.at.group.partition.clone(),
                from,
                max_bytes: self.at.shared.share(),
                group: Some(self.at.group.name.clone()),
            };
            // While it fails, others have the turn.
            let reading = || {
                let (turn, read) = (turn(), self.at.context.storage().read(read.clone()));
                async move {
                    let turn = turn.await;
                    Ok((read.await?, turn))
                }
            };
            let (fetched, turn) = self.patiently(reading).await;
            if fetched.epoch != self.session.lease().epoch {
                self.session.fence();
                return std::future::pending().await;
            }
            if fetched.bounds.start > from {
                self.session.skip(from..fetched.bounds.start);
                *read_to = fetched.bounds.start;
                continue;
            }
            let end = fetched.batches.last()?.offsets().end;
            let others = offsets.gaps(from..end).into_iter().collect();
            *read_to = end;
            let session = self.session.clone();
            let room = Room::Again { _turn: turn };
            let chunk = Chunk::new(session, fetched.batches, from..end, &others, room);
            return Some(chunk);
        }
    }

    /// Calls until it succeeds. The fetch reports the errors of the storage; here they only wait.
    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> T
    where
        F: Future<Output = Result<T>>,
    {
        loop {
            match call().await {
                Ok(value) => return value,
                Err(error) => {
                    tracing::debug!(%error, group = %self.at.group, "cannot deliver again yet");
                    sleep(&**self.at.context.clock(), PAUSE * 10).await;
                }
            }
        }
    }
}
