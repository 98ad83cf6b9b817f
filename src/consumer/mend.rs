//! Delivers messages again that were dropped without a verdict and hold the position up.

use std::sync::Arc;

use super::chunk::Chunk;
use super::control::Shared;
use super::lane::{Lane, PAUSE, Settings};
use super::session::Session;
use crate::clock::sleep;
use crate::error::Result;
use crate::flow::Flowstream;
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
        let clock = self.flow.clock().clone();
        loop {
            self.session.hole().await;
            sleep(&*clock, self.settings.redeliver_after).await;
            // A message may be done without this consumer's knowing.
            self.patiently(|| self.learn()).await;
            let holes = self.session.take_holes();
            tracing::debug!(group = %self.group, ?holes, "delivering again");
            self.session.begin_again(holes.iter().flatten());
            self.deliver(&holes).await;
        }
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

    /// Reads the batches that have holes in them, each once.
    async fn deliver(&self, holes: &Ranges) {
        let mut read_to = 0;
        while let Some(hole) = holes.iter().find(|hole| hole.end > read_to) {
            let from = hole.start.max(read_to);
            let read = Read {
                partition: self.group.partition.clone(),
                from,
                max_bytes: self.settings.fetch_bytes,
                group: None,
            };
            let fetched = self
                .patiently(|| self.flow.storage().read(read.clone()))
                .await;
            if fetched.bounds.start > from {
                self.session.skip(from..fetched.bounds.start);
                read_to = fetched.bounds.start;
                continue;
            }
            let Some(end) = fetched.batches.last().map(|batch| batch.offsets().end) else {
                return;
            };
            let others = holes.gaps(from..end).into_iter().collect();
            let chunk = Chunk::new(self.session.clone(), fetched.batches, from..end, &others);
            if !chunk.is_empty() {
                self.shared.deliver_again(chunk).await;
            }
            read_to = end;
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
