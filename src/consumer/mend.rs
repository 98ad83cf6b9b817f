//! Delivers messages again that were dropped without a verdict and hold the position up.

use std::ops::Range;
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
            for hole in self.session.take_holes().iter() {
                let offsets = hole.clone();
                tracing::debug!(group = %self.group, ?offsets, "delivering again");
                self.session.begin_again(hole.clone());
                self.deliver(hole).await;
            }
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

    async fn deliver(&self, hole: Range<u64>) {
        let mut from = hole.start;
        while from < hole.end {
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
                from = fetched.bounds.start;
                continue;
            }
            let Some(end) = fetched.batches.last().map(|batch| batch.offsets().end) else {
                return;
            };
            let done: Ranges = {
                let progress = self.session.progress();
                let before = Ranges::from(0..progress.position());
                before.iter().chain(progress.acked().iter()).collect()
            };
            let wanted = from..end.min(hole.end);
            let chunk = Chunk::new(self.session.clone(), fetched.batches, wanted, &done);
            if !chunk.is_empty() {
                self.shared.deliver_again(chunk).await;
            }
            from = end;
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
