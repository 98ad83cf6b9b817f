//! Delivers messages again: those that are to be retried, and those that were dropped without a
//! verdict and hold the position up. Moves those away that were begun too often.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::chunk::{Chunk, Room};
use super::control::Shared;
use super::dropped::{Look, Patience};
use super::lane::{Lane, PAUSE, Settings};
use super::session::Session;
use crate::clock::sleep;
use crate::dead_letter;
use crate::error::Result;
use crate::flow::Flowstream;
use crate::message::{Batch, Message};
use crate::name::Name;
use crate::ranges::Ranges;
use crate::storage::{Group, Read};

pub(super) struct Mender {
    flow: Flowstream,
    shared: Arc<Shared>,
    settings: Settings,
    group: Group,
    session: Arc<Session>,
}

impl Mender {
    pub(super) fn of(lane: &Lane, session: &Arc<Session>) -> Self {
        Self {
            flow: lane.flow.clone(),
            shared: lane.shared.clone(),
            settings: lane.settings,
            group: lane.group.clone(),
            session: session.clone(),
        }
    }

    /// Never ends by itself.
    pub(super) async fn run(self) {
        tokio::join!(self.mend_holes(), self.retry(), self.move_away());
    }

    /// Delivers again what was dropped, once nobody can be expected to do it otherwise.
    async fn mend_holes(&self) {
        let clock = self.flow.clock();
        let patience = Patience {
            hole: self.settings.redeliver_after,
            longest: self.settings.max_processing,
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
        tracing::debug!(group = %self.group, ?holes, "delivering again");
        self.deliver(holes).await;
    }

    async fn learn(&self) -> Result<()> {
        let groups = std::slice::from_ref(&self.group);
        let states = self.flow.storage().observe(groups).await?;
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
            tracing::debug!(group = %self.group, ?retries, "delivering again");
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
            let turn = || self.shared.redeliver();
            let Some(chunk) = self.read(&offsets, &mut read_to, turn).await else {
                return;
            };
            if !chunk.is_empty() {
                self.shared.deliver_again(chunk);
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
                let turn = || self.shared.move_away();
                let Some(mut chunk) = self.read(&offsets, &mut read_to, turn).await else {
                    break;
                };
                let mut letters = Vec::new();
                while let Some(delivery) = chunk.take() {
                    self.session.begin_move();
                    // The one that it would have been does not count.
                    let attempts = delivery.attempt() - 1;
                    let reason = format!("not done after {attempts} attempts");
                    letters.push(dead_letter::letter(delivery, attempts, &reason, to));
                }
                if !letters.is_empty() {
                    self.bury(to, letters).await;
                }
            }
        }
    }

    /// Tries until they are written, or the lease has ended: then they reach the next owner.
    async fn bury(&self, to: &Name, letters: Vec<Message>) {
        let (stream, group) = (&self.group.partition.stream, &self.group.name);
        let partition = self.group.partition.index;
        let offsets: Ranges = letters
            .iter()
            .flat_map(Message::commits)
            .map(|commit| commit.offset()..commit.offset() + 1)
            .collect();
        let mut batch = Batch::from(letters);
        loop {
            let (error, unsent) = match dead_letter::append(&self.session, to, batch).await {
                Ok(()) => break,
                Err(unsent) => unsent,
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
            sleep(&**self.flow.clock(), PAUSE * 10).await;
        }
        for offset in offsets.iter().flatten() {
            tracing::warn!(
                %stream, partition, %group, offset, max_attempts = self.settings.max_attempts, %to,
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
                partition: self.group.partition.clone(),
                from,
                max_bytes: self.shared.share(),
                group: Some(self.group.name.clone()),
            };
            // While it fails, others have the turn.
            let reading = || {
                let (turn, read) = (turn(), self.flow.storage().read(read.clone()));
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
                    tracing::debug!(%error, group = %self.group, "cannot deliver again yet");
                    sleep(&**self.flow.clock(), PAUSE * 10).await;
                }
            }
        }
    }
}
