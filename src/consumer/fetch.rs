//! The prefetch: reads ahead while the consumer hands out what was read before.

use std::sync::Arc;
use std::time::Duration;

use super::budget::Charge;
use super::chunk::{Chunk, Room};
use super::end::End;
use super::inbox::Event;
use super::lane::{Lane, PAUSE};
use super::session::Session;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Fetched, Read, StoredBatch};
use crate::tail::{Next, Turn};
use crate::watch::Signal;

/// Reads from the position of the group on, and sleeps at the end of the log until the watch wakes
/// it. Never ends by itself.
///
/// One read is done at a time, and only when there is room for it: so much is in memory as the
/// consumer hands out, waits in its inbox, and is being read. What the process has in memory is not
/// read, as long as the lease is beyond doubt. A partition that is paused reads nothing ahead.
pub(super) async fn fetch(lane: &mut Lane, session: &Arc<Session>) {
    let shared = lane.shared.clone();
    let clock = lane.flow.clock().clone();
    let tail = lane.tail().clone();
    let incarnation = lane.incarnation.unwrap_or_default();
    let mut from = session.progress().position();
    // What was known when the last read of the storage began.
    let mut read_at: Option<Signal> = None;
    loop {
        session.until_resumed().await;
        shared.inbox().room(lane.index).await;
        if let Some(again_from) = shared.inbox().take_again_from(lane.index) {
            from = again_from;
        }
        let known = lane.watch().now();
        let mut turn = None;
        let mut charge = None;
        if let Some(until) = sure_until(lane, session, read_at, known) {
            let end = known.end.max(session.log_end());
            if from >= end && matches!(tail.next(incarnation, from, 0), Next::End) {
                lane.watch().changed().await;
                continue;
            }
            let held = shared.reserve().await;
            match tail.next(incarnation, from, shared.share()) {
                Next::Batches(batches) => {
                    let end = batches.last().map_or(from, |batch| batch.offsets().end);
                    session.heard_of(end);
                    lane.saw(batches.last());
                    from = hand_out(lane, session, held, batches, from);
                    continue;
                }
                Next::Elsewhere => {}
                Next::End => match tail.try_turn() {
                    Some(free) => {
                        // Another one may have read it just now.
                        if !matches!(tail.next(incarnation, from, 0), Next::End) {
                            continue;
                        }
                        turn = Some(free);
                    }
                    // Another one reads it. If that fails, the turn is free again.
                    None => {
                        drop(held);
                        tokio::select! {
                            biased;
                            () = clock.sleep_until(until) => {}
                            free = tail.turn() => drop(free),
                        }
                        continue;
                    }
                },
            }
            charge = Some(held);
        }

        let began = clock.now();
        let mark = tail.mark();
        let (mut fetched, turn, charge) = match read(lane, from, charge, turn).await {
            Ok(fetched) => fetched,
            Err(error) if error.kind() == ErrorKind::Closed => {
                session.end(End::Closed);
                return std::future::pending().await;
            }
            Err(error) => {
                tell(lane, error);
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
            tell(lane, trimmed(lane, from, start));
            from = start;
            continue;
        }
        if fetched.cut_at_gap(from) {
            drop((turn, charge));
            tell(lane, damaged(lane, from));
            sleep(&*clock, PAUSE).await;
            continue;
        }
        tail.read(mark, incarnation, from, &fetched);
        drop(turn);
        lane.saw(fetched.batches.last());
        if fetched.batches.is_empty() {
            drop(charge);
            if fetched.bounds.end < known.end {
                lane.watch().went_back(fetched.bounds.end);
            }
            if lane.watch().now() == known && known.end <= from.max(fetched.bounds.end) {
                lane.watch().changed().await;
            }
            continue;
        }
        from = hand_out(lane, session, charge, fetched.batches, from);
    }
}

/// Reads once there is room for it. While it fails, others have the room and the turn.
async fn read<'t>(
    lane: &Lane,
    from: u64,
    mut charge: Option<Charge>,
    mut turn: Option<Turn<'t>>,
) -> Result<(Fetched, Option<Turn<'t>>, Charge)> {
    let (shared, storage) = (&lane.shared, lane.flow.storage());
    let read = Read {
        partition: lane.group.partition.clone(),
        from,
        max_bytes: shared.share(),
        group: Some(lane.group.name.clone()),
    };
    let reading = || {
        let (charge, turn) = (charge.take(), turn.take());
        let read = read.clone();
        async move {
            let charge = match charge {
                Some(charge) => charge,
                None => shared.reserve().await,
            };
            Ok((storage.read(read).await?, turn, charge))
        }
    };
    lane.flow.retry(reading).await
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

/// Gives what was read to the consumer, and where that ends.
fn hand_out(
    lane: &Lane,
    session: &Arc<Session>,
    charge: Charge,
    batches: Vec<StoredBatch>,
    from: u64,
) -> u64 {
    let end = batches.last().map_or(from, |batch| batch.offsets().end);
    let progress = session.progress();
    let wanted = from.max(progress.position())..end;
    let mut done = session.exhaust(wanted.clone());
    done.union(progress.acked());
    let room = Room::Ahead(charge);
    let chunk = Chunk::new(session.clone(), batches, wanted, &done, room);
    if !chunk.is_empty() {
        lane.give(Event::Messages(chunk));
    }
    from.max(end)
}

fn tell(lane: &Lane, error: Error) {
    lane.give(Event::Error(error));
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
