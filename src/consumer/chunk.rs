//! Messages on their way from the storage to the consumer.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::session::Session;
use crate::delivery::Delivery;
use crate::error::Error;
use crate::ranges::Ranges;
use crate::storage::StoredBatch;

/// What the prefetch hands to the consumer.
#[derive(Debug)]
pub(super) enum Event {
    Messages(Chunk),
    Error(Error),
}

/// Some messages that were read under one lease.
#[derive(Debug)]
pub(super) struct Chunk {
    session: Arc<Session>,
    runs: VecDeque<Run>,
    /// How often some of them were begun before.
    attempts: Vec<(u64, u32)>,
}

/// Neighbours in a batch.
#[derive(Debug)]
struct Run {
    batch: StoredBatch,
    offsets: Range<u64>,
}

impl Chunk {
    /// The messages of `batches` in `wanted` that are not `done`.
    pub(super) fn new(
        session: Arc<Session>,
        batches: Vec<StoredBatch>,
        wanted: Range<u64>,
        done: &Ranges,
    ) -> Self {
        let mut runs = VecDeque::with_capacity(batches.len());
        for batch in batches {
            let offsets = batch.offsets();
            let offsets = offsets.start.max(wanted.start)..offsets.end.min(wanted.end);
            for offsets in done.gaps(offsets) {
                let batch = batch.clone();
                runs.push_back(Run { batch, offsets });
            }
        }
        let offsets = match (runs.front(), runs.back()) {
            (Some(first), Some(last)) => first.offsets.start..last.offsets.end,
            _ => 0..0,
        };
        Self {
            attempts: session.attempts(offsets),
            session,
            runs,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    #[inline]
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// Takes the next message out, to be handed out.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Delivery> {
        let delivery = self.take()?;
        self.session.hand_out();
        Some(delivery)
    }

    /// Takes the next message out. Whoever does counts its handle.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Delivery> {
        let run = self.runs.front_mut()?;
        let offset = run.offsets.start;
        let index = (offset - run.batch.base_offset) as u32;
        let message = run.batch.records.message(index);
        let appended_at = run.batch.appended_at;
        run.offsets.start += 1;
        if run.offsets.is_empty() {
            self.runs.pop_front();
        }
        let attempt = self.begun(offset).saturating_add(1);
        let session = self.session.clone();
        Some(Delivery::new(
            message,
            appended_at,
            attempt,
            session,
            offset,
        ))
    }

    fn begun(&self, offset: u64) -> u32 {
        let found = self.attempts.binary_search_by_key(&offset, |(at, _)| *at);
        found.map_or(0, |at| self.attempts[at].1)
    }
}
