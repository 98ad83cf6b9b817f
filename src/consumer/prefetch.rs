//! The prefetch: reads ahead while the consumer hands out what was read before.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Charge;
use super::chunk::{Chunk, Room};
use super::inbox::Event;
use super::partition::{ConsumerPartition, LastSeen};
use super::settings::PAUSE;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind, Result};
use crate::session::{End, Session};
use crate::storage::{Fetched, Read, StoredBatch};
use crate::watch::{LogCache, Next, ReadPermit, Signal, Subscription};

/// Reads from the position of the group on, and sleeps at the end of the log until the watch wakes it.
///
/// One read is done at a time, and only when there is room for it: so much is in memory as the
/// consumer hands out, waits in its inbox, and is being read. What the process has in memory is not
/// read, as long as the lease is beyond doubt. A partition that is paused reads nothing ahead.
pub(super) struct Prefetch<'a> {
    at: &'a ConsumerPartition,
    watch: &'a mut Subscription,
    seen: &'a mut LastSeen,
    session: &'a Arc<Session>,
    /// The storage's, in which the lease was granted.
    incarnation: u64,
    /// The offset of the next message.
    from: u64,
    /// What was known when the last read of the storage began.
    read_at: Option<Signal>,
}

/// What a read of the storage begins with, where it was got before.
#[derive(Default)]
struct Reserved<'c> {
    charge: Option<Charge>,
    permit: Option<ReadPermit<'c>>,
}

impl<'a> Prefetch<'a> {
    pub(super) fn new(
        at: &'a ConsumerPartition,
        watch: &'a mut Subscription,
        seen: &'a mut LastSeen,
        session: &'a Arc<Session>,
    ) -> Self {
        Self {
            at,
            watch,
            session,
            incarnation: seen.incarnation.unwrap_or_default(),
            from: session.progress().position(),
            read_at: None,
            seen,
        }
    }

    /// Never ends by itself.
    pub(super) async fn run(mut self) {
        let (inbox, index) = (self.at.shared.inbox(), self.at.index);
        let cache = self.watch.cache().clone();
        loop {
            self.session.until_resumed().await;
            inbox.room(index).await;
            if let Some(again_from) = inbox.take_again_from(index) {
                self.from = again_from;
            }
            let known = self.watch.now();
            let reserved = match self.sure_until(known) {
                Some(until) => self.take_cached(&cache, known, until).await,
                None => Some(Reserved::default()),
            };
            if let Some(reserved) = reserved
                && self.read(&cache, known, reserved).await.is_none()
            {
                // The lease has ended.
                return std::future::pending().await;
            }
        }
    }

    /// Until when the lease is beyond doubt, so that nothing has to be read in order to look at it: half a
    /// lease from the last write on. Then it is renewed where a message waits, and a read renews the trust
    /// in it where none did. Not at all once something may have ended it since the last read.
    fn sure_until(&self, known: Signal) -> Option<Duration> {
        let read_at = self.read_at?;
        let is_quiet = read_at.releases == known.releases && read_at.missed == known.missed;
        let lease = self.at.settings.lease;
        let until = self.session.wrote_at().saturating_add(lease / 2);
        (is_quiet && self.at.context.clock().now() < until).then_some(until)
    }

    /// Hands out what the process has in memory, or waits where nothing follows. Otherwise it gives what a
    /// read of the storage begins with.
    async fn take_cached<'c>(
        &mut self,
        cache: &'c LogCache,
        known: Signal,
        until: Duration,
    ) -> Option<Reserved<'c>> {
        let (shared, clock) = (&self.at.shared, self.at.context.clock());
        let (incarnation, from) = (self.incarnation, self.from);
        let is_at_end = || matches!(cache.next(incarnation, from, 0), Next::End);
        if from >= known.end.max(self.session.log_end()) && is_at_end() {
            self.watch.changed().await;
            return None;
        }
        let charge = shared.reserve().await;
        match cache.next(incarnation, from, shared.share()) {
            Next::Batches(batches) => {
                let end = batches.last().map_or(from, |batch| batch.offsets().end);
                self.session.heard_of(end);
                self.seen.saw(batches.last());
                self.hand_out(charge, batches);
                None
            }
            Next::Elsewhere => Some(Reserved {
                charge: Some(charge),
                permit: None,
            }),
            Next::End => {
                let Some(permit) = cache.try_permit() else {
                    // Another one reads it. If that fails, the permit is free again.
                    drop(charge);
                    tokio::select! {
                        biased;
                        () = clock.sleep_until(until) => {}
                        permit = cache.permit() => drop(permit),
                    }
                    return None;
                };
                // Another one may have read it just now.
                is_at_end().then_some(Reserved {
                    charge: Some(charge),
                    permit: Some(permit),
                })
            }
        }
    }

    /// Reads the storage, and hands out what follows. `None` if the lease has ended.
    async fn read(
        &mut self,
        cache: &LogCache,
        known: Signal,
        reserved: Reserved<'_>,
    ) -> Option<()> {
        let (session, clock) = (self.session, self.at.context.clock());
        let (from, began, mark) = (self.from, clock.now(), cache.mark());
        let (mut fetched, permit, charge) = match self.fetch(reserved).await {
            Ok(fetched) => fetched,
            Err(error) if error.kind() == ErrorKind::Closed => {
                session.end(End::Closed);
                return None;
            }
            Err(error) => {
                self.tell(error);
                sleep(&**clock, PAUSE).await;
                return Some(());
            }
        };
        if fetched.epoch != session.lease().epoch {
            session.fence();
            return None;
        }
        session.saw_end(fetched.bounds.end, began);
        if !session.is_live() {
            return None;
        }
        self.read_at = Some(known);
        if fetched.bounds.start > from {
            self.skip_trimmed(fetched.bounds.start);
            return Some(());
        }
        if fetched.cut_at_gap(from) {
            drop((permit, charge));
            self.tell(damaged(self.at, from));
            sleep(&**clock, PAUSE).await;
            return Some(());
        }
        cache.read(mark, self.incarnation, from, &fetched);
        drop(permit);
        self.seen.saw(fetched.batches.last());
        if fetched.batches.is_empty() {
            drop(charge);
            self.wait_at_end(known, fetched.bounds.end).await;
        } else {
            self.hand_out(charge, fetched.batches);
        }
        Some(())
    }

    /// Reads once there is room for it. While it fails, others have the room and the permit.
    async fn fetch<'c>(
        &self,
        mut reserved: Reserved<'c>,
    ) -> Result<(Fetched, Option<ReadPermit<'c>>, Charge)> {
        let (shared, context) = (&self.at.shared, &self.at.context);
        let read = Read {
            partition: self.at.group.partition.clone(),
            from: self.from,
            max_bytes: shared.share(),
            group: Some(self.at.group.name.clone()),
        };
        let reading = || {
            let Reserved { charge, permit } = std::mem::take(&mut reserved);
            let read = read.clone();
            async move {
                let charge = match charge {
                    Some(charge) => charge,
                    None => shared.reserve().await,
                };
                Ok((context.storage().read(read).await?, permit, charge))
            }
        };
        context.retry(reading).await
    }

    /// Messages were trimmed away before the group had done them: goes on behind.
    fn skip_trimmed(&mut self, start: u64) {
        self.session.skip(self.from..start);
        self.tell(trimmed(self.at, self.from, start));
        self.from = start;
    }

    /// The storage has nothing that follows, and its log ends there: waits for more.
    async fn wait_at_end(&mut self, known: Signal, end: u64) {
        if end < known.end {
            self.watch.went_back(end);
        }
        if self.watch.now() == known && known.end <= self.from.max(end) {
            self.watch.changed().await;
        }
    }

    /// Gives what was read to the consumer.
    fn hand_out(&mut self, charge: Charge, batches: Vec<StoredBatch>) {
        let end = batches.last().map_or(self.from, |it| it.offsets().end);
        let progress = self.session.progress();
        let wanted = self.from.max(progress.position())..end;
        let mut done = self.session.exhaust(wanted.clone());
        done.union(progress.acked());
        let room = Room::Ahead(charge);
        let chunk = Chunk::new(self.session.clone(), batches, wanted, &done, room);
        if !chunk.is_empty() {
            self.at.give(Event::Messages(chunk));
        }
        self.from = self.from.max(end);
    }

    fn tell(&self, error: Error) {
        self.at.give(Event::Error(error));
    }
}

fn damaged(at: &ConsumerPartition, missing: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!(
            "{}: the message at offset {missing} is missing in the log, though there are later ones; \
             nothing is skipped: reset the group to go on behind it",
            at.group
        ),
    )
}

fn trimmed(at: &ConsumerPartition, from: u64, start: u64) -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        format!(
            "{}: the messages from offset {from} to {} were trimmed away before the group had done \
             them; it goes on at {start}",
            at.group,
            start - 1
        ),
    )
}
