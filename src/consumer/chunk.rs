//! Messages on their way from the storage to the consumer.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::budget::Charge;
use super::delivery::Delivery;
use crate::ranges::Ranges;
use crate::session::Session;
use crate::storage::StoredBatch;
use crate::watch::size;

/// Some messages that were read under one lease.
#[derive(Debug)]
pub(super) struct Chunk {
    session: Arc<Session>,
    runs: VecDeque<Run>,
    /// How often some of them were begun before.
    attempts: Vec<(u64, u32)>,
    room: Room,
}

/// What a chunk takes of what its consumer may have in memory.
#[derive(Debug)]
pub(super) enum Room {
    /// Read ahead: its bytes.
    Ahead(Charge),
    /// To come again: no other chunk of that kind is read meanwhile.
    Again { _turn: Option<OwnedSemaphorePermit> },
}

/// Neighbours in a batch.
#[derive(Debug)]
struct Run {
    batch: StoredBatch,
    offsets: Range<u64>,
    /// What is free behind it: the batch, if it is the last run of it.
    bytes: usize,
}

impl Chunk {
    /// The messages of `batches` in `wanted` that are not `done`.
    pub(super) fn new(
        session: Arc<Session>,
        batches: Vec<StoredBatch>,
        wanted: Range<u64>,
        done: &Ranges,
        mut room: Room,
    ) -> Self {
        let mut runs: VecDeque<Run> = VecDeque::with_capacity(batches.len());
        let mut total = 0;
        for batch in batches {
            let offsets = batch.offsets();
            let offsets = offsets.start.max(wanted.start)..offsets.end.min(wanted.end);
            let gaps = done.gaps(offsets);
            let last = gaps.len().saturating_sub(1);
            for (at, offsets) in gaps.into_iter().enumerate() {
                let bytes = if at == last { size(&batch) } else { 0 };
                total += bytes;
                let batch = batch.clone();
                runs.push_back(Run {
                    batch,
                    offsets,
                    bytes,
                });
            }
        }
        if let Room::Ahead(charge) = &mut room {
            charge.settle(total);
        }
        let offsets = match (runs.front(), runs.back()) {
            (Some(first), Some(last)) => first.offsets.start..last.offsets.end,
            _ => 0..0,
        };
        Self {
            attempts: session.attempts(offsets),
            session,
            runs,
            room,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    #[inline]
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    #[inline]
    pub(super) fn partition(&self) -> usize {
        self.session.partition()
    }

    /// The offset of its first message.
    pub(super) fn first(&self) -> Option<u64> {
        self.runs.front().map(|run| run.offsets.start)
    }

    /// Whether nothing of it is to be handed out now.
    pub(super) fn is_paused(&self) -> bool {
        self.session.is_live() && self.session.is_paused()
    }

    /// Takes the next message out, to be handed out.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Delivery> {
        let delivery = self.take()?;
        self.session.hand_out(delivery.offset());
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
            self.end_run();
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

    fn end_run(&mut self) {
        let Some(run) = self.runs.pop_front() else {
            return;
        };
        let Room::Ahead(charge) = &mut self.room else {
            return;
        };
        match self.runs.is_empty() {
            true => charge.settle(0),
            false => charge.free(run.bytes),
        }
    }

    fn begun(&self, offset: u64) -> u32 {
        let found = self.attempts.binary_search_by_key(&offset, |(at, _)| *at);
        found.map_or(0, |at| self.attempts[at].1)
    }
}
