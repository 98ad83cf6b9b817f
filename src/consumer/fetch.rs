//! The prefetch: reads ahead while the consumer hands out what was read before.

use std::sync::Arc;

use super::chunk::{Chunk, Event};
use super::end::End;
use super::lane::{Lane, PAUSE};
use super::session::Session;
use crate::clock::sleep;
use crate::error::{Error, ErrorKind};
use crate::storage::Read;

/// Reads from the position of the group on, and sleeps at the end of the log until the watch wakes
/// it. Never ends by itself.
///
/// One read is done at a time, and only when there is room for it: so much is in memory as the
/// consumer hands out, waits in the channel, and is being read.
pub(super) async fn fetch(lane: &mut Lane, session: &Arc<Session>) {
    let events = lane.events.clone();
    let clock = lane.flow.clock().clone();
    let mut from = session.progress().position();
    loop {
        let Ok(room) = events.reserve().await else {
            // The consumer is gone, and with it comes the shutdown.
            return std::future::pending().await;
        };
        let known = lane.watch().now();
        let began = clock.now();
        let read = Read {
            partition: lane.group.partition.clone(),
            from,
            max_bytes: lane.settings.fetch_bytes,
            group: Some(lane.group.name.clone()),
        };
        let storage = lane.flow.storage();
        let mut fetched = match lane.flow.retry(|| storage.read(read.clone())).await {
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

        if fetched.bounds.start > from {
            let start = fetched.bounds.start;
            session.skip(from..start);
            room.send(Event::Error(trimmed(lane, from, start)));
            from = start;
            continue;
        }
        if fetched.cut_at_gap(from) {
            room.send(Event::Error(damaged(lane, from)));
            sleep(&*clock, PAUSE).await;
            continue;
        }
        lane.saw(fetched.batches.last());
        let Some(end) = fetched.batches.last().map(|batch| batch.offsets().end) else {
            drop(room);
            if fetched.bounds.end < known.end {
                lane.watch().went_back(fetched.bounds.end);
            }
            if lane.watch().now() == known && known.end <= from.max(fetched.bounds.end) {
                lane.watch().changed().await;
            }
            continue;
        };
        let progress = session.progress();
        let wanted = from.max(progress.position())..end;
        from = from.max(end);
        let mut done = session.exhaust(wanted.clone());
        done.union(progress.acked());
        let chunk = Chunk::new(session.clone(), fetched.batches, wanted, &done);
        if !chunk.is_empty() {
            room.send(Event::Messages(chunk));
        }
    }
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
