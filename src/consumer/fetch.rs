//! The prefetch: reads ahead while the consumer hands out what was read before.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Permit;

use super::chunk::{Chunk, Event};
use super::end::End;
use super::lane::{Lane, PAUSE};
use super::session::Session;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind};
use crate::storage::{Read, StoredBatch};
use crate::tail::{Next, Tail, Turn};
use crate::watch::Signal;

/// Reads from the position of the group on, and sleeps at the end of the log until the watch wakes
/// it. Never ends by itself.
///
/// One read is done at a time, and only when there is room for it: so much is in memory as the
/// consumer hands out, waits in the channel, and is being read. What the process has in memory is not
/// read, as long as the lease is beyond doubt.
pub(super) async fn fetch(lane: &mut Lane, session: &Arc<Session>) {
    let events = lane.events.clone();
    let clock = lane.flow.clock().clone();
    let tail = lane.tail().clone();
    let incarnation = lane.incarnation.unwrap_or_default();
    let max_bytes = lane.settings.fetch_bytes;
    let mut from = session.progress().position();
    // What was known when the last read of the storage began.
    let mut read_at: Option<Signal> = None;
    loop {
        let Ok(room) = events.reserve().await else {
            // The consumer is gone, and with it comes the shutdown.
            return std::future::pending().await;
        };
        let known = lane.watch().now();
        let mut turn = None;
        if let Some(until) = sure_until(lane, session, read_at, known) {
            let end = known.end.max(session.log_end());
            let next = || tail.next(incarnation, from, max_bytes);
            let doubt = async { clock.sleep_until(until).await };
            match at_hand(&tail, next, from < end, doubt).await {
                AtHand::Batches(batches) => {
                    let end = batches.last().map_or(from, |batch| batch.offsets().end);
                    session.heard_of(end);
                    lane.saw(batches.last());
                    from = hand_out(lane, session, room, batches, from);
                    continue;
                }
                AtHand::End => {
                    drop(room);
                    lane.watch().changed().await;
                    continue;
                }
                AtHand::Unread(right) => turn = right,
            }
        }

        let began = clock.now();
        let mark = tail.mark();
        let read = Read {
            partition: lane.group.partition.clone(),
            from,
            max_bytes,
            group: Some(lane.group.name.clone()),
        };
        let storage = lane.flow.storage();
        let reading = lane.flow.retry(|| {
            // After an error it is the turn of another, at once.
            let (turn, reading) = (turn.take(), storage.read(read.clone()));
            async move { Ok((reading.await?, turn)) }
        });
        let (mut fetched, turn) = match reading.await {
            Ok(fetched) => fetched,
            Err(error) if error.kind() == ErrorKind::Closed => {
                session.end(End::Closed);
                return std::future::pending().await;
            }
            Err(error) => {
                room.send(Event::Error(error));
                sleep(&*clock, PAUSE).await;
                continue;
            }
        };
        if fetched.epoch != session.lease().epoch {
            session.fence();
            return std::future::pending().await;
        }
        session.saw_end(fetched.bounds.end, began);
        if !session.is_live() {
            return std::future::pending().await;
        }
        read_at = Some(known);

        if fetched.bounds.start > from {
            let start = fetched.bounds.start;
            session.skip(from..start);
            room.send(Event::Error(trimmed(lane, from, start)));
            from = start;
            continue;
        }
        if fetched.cut_at_gap(from) {
            drop(turn);
            room.send(Event::Error(damaged(lane, from)));
            sleep(&*clock, PAUSE).await;
            continue;
        }
        tail.read(mark, incarnation, from, &fetched);
        drop(turn);
        lane.saw(fetched.batches.last());
        if fetched.batches.is_empty() {
            drop(room);
            if fetched.bounds.end < known.end {
                lane.watch().went_back(fetched.bounds.end);
            }
            if lane.watch().now() == known && known.end <= from.max(fetched.bounds.end) {
                lane.watch().changed().await;
            }
            continue;
        }
        from = hand_out(lane, session, room, fetched.batches, from);
    }
}

/// Until when the lease is beyond doubt, so that nothing has to be read in order to look at it: half a
/// lease from the last write on. Then it is renewed where a message waits, and a read renews the trust
/// in it where none did. Not at all once something may have ended it since the last read.
fn sure_until(
    lane: &Lane,
    session: &Session,
    read_at: Option<Signal>,
    known: Signal,
) -> Option<Duration> {
    let read_at = read_at?;
    let is_quiet = read_at.releases == known.releases && read_at.missed == known.missed;
    let until = session.wrote_at().saturating_add(lane.settings.lease / 2);
    (is_quiet && lane.flow.clock().now() < until).then_some(until)
}

/// What the process has in memory of what comes next.
enum AtHand<'t> {
    Batches(Vec<StoredBatch>),
    /// The end of the log.
    End,
    /// It has to be read; with the turn, all who want the same wait for it.
    Unread(Option<Turn<'t>>),
}

/// Waits, where others read what comes next, until they are done, and `doubt` at the latest.
async fn at_hand(
    tail: &Tail,
    next: impl Fn() -> Next,
    is_more: bool,
    doubt: impl Future<Output = ()>,
) -> AtHand<'_> {
    match next() {
        Next::Batches(batches) => return AtHand::Batches(batches),
        Next::Elsewhere => return AtHand::Unread(None),
        Next::End if !is_more => return AtHand::End,
        Next::End => {}
    }
    let turn = tokio::select! {
        biased;
        () = doubt => return AtHand::Unread(None),
        turn = tail.turn() => turn,
    };
    match next() {
        Next::Batches(batches) => AtHand::Batches(batches),
        Next::End | Next::Elsewhere => AtHand::Unread(Some(turn)),
    }
}

/// Gives what was read to the consumer, and where that ends.
fn hand_out(
    lane: &Lane,
    session: &Arc<Session>,
    room: Permit<'_, Event>,
    batches: Vec<StoredBatch>,
    from: u64,
) -> u64 {
    let end = batches.last().map_or(from, |batch| batch.offsets().end);
    let progress = session.progress();
    let wanted = from.max(progress.position())..end;
    let mut done = session.exhaust(wanted.clone());
    done.union(progress.acked());
    let chunk = Chunk::new(session.clone(), batches, wanted, &done);
    if !chunk.is_empty() {
        room.send(Event::Messages(chunk));
        // It has something to do now, whether it polls or not.
        lane.shared.wake();
    }
    from.max(end)
}

fn damaged(lane: &Lane, missing: u64) -> Error {
    Error::new(
        ErrorKind::Data,
        format!(
            "{}: the message at offset {missing} is missing in the log, though there are later ones; \
             nothing is skipped: reset the group to go on behind it",
            lane.group
        ),
    )
}

fn trimmed(lane: &Lane, from: u64, start: u64) -> Error {
    Error::new(
        ErrorKind::OutOfRange,
        format!(
            "{}: the messages from offset {from} to {} were trimmed away before the group had done \
             them; it goes on at {start}",
            lane.group,
            start - 1
        ),
    )
}
