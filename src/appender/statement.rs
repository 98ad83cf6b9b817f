//! What goes to the storage in one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::route::{Routes, partition_of};
use super::{AppendedRow, Submission};
use crate::consumer::Session;
use crate::delivery::Commit;
use crate::error::{Error, ErrorKind};
#[cfg(feature = "postgres")]
use crate::message::Batch;
use crate::message::Message;
use crate::name::Name;
use crate::storage::{Append, Id, Partition, Ranges, RecordsBuilder, Row, Storage};

/// A statement takes no more once it has so many bytes.
const FULL_BYTES: usize = 4 << 20;
const FULL_MESSAGES: usize = 1 << 16;
/// And no second batch in a row of the same producer: that one is better sent while this statement is
/// under way. What is shorter costs less together than one after the other.
const ENOUGH_BYTES: usize = 64 << 10;

/// Submissions, gathered: all messages that go to one partition share one row.
#[derive(Debug, Default)]
pub(super) struct Statement {
    entries: Vec<Entry>,
    rows: Vec<(Partition, RecordsBuilder)>,
    riders: Vec<(Arc<Session>, Ranges)>,
    bytes: usize,
    messages: usize,
    /// Where messages without a key go, modulo the number of partitions.
    turn: Option<u32>,
    is_closed: bool,
    /// What was given to the storage.
    sealed: Option<Arc<Append>>,
}

#[derive(Debug)]
struct Entry {
    submission: Submission,
    places: Vec<Place>,
    has_riders: bool,
}

/// Messages of a submission in a row.
#[derive(Debug, Clone, Copy)]
struct Place {
    row: usize,
    start: u32,
    len: u32,
}

/// Where to look for a batch whose fate is not known.
#[derive(Debug)]
pub(crate) struct Doubt {
    pub(super) id: Id,
    pub(super) partitions: Arc<[Partition]>,
    places: Vec<Place>,
    /// The leases whose commits ride in it.
    sessions: Vec<Arc<Session>>,
}

impl Doubt {
    /// It was written: answers for it.
    pub(super) fn confirm(
        mut self,
        submission: Submission,
        bases: &[u64],
        storage: &Arc<dyn Storage>,
    ) {
        self.sessions.clear();
        let rows = rows(&self.partitions, &self.places, bases);
        finish(submission, true, rows, storage);
    }

    /// It was not written, and never will be under this id.
    pub(super) fn refute(mut self) {
        self.sessions.clear();
    }
}

/// Nobody will find out. Messages that were relayed in it are delivered again, so a write that
/// lands late must not be accepted: only the end of their leases sees to that.
impl Drop for Doubt {
    fn drop(&mut self) {
        for session in &self.sessions {
            session.give_up();
        }
    }
}

impl Statement {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes < FULL_BYTES && self.messages < FULL_MESSAGES && !self.is_closed
    }

    /// Whether this one is better left for the next statement.
    pub(super) fn is_enough_for(&self, submission: &Submission) -> bool {
        let last = self.entries.last();
        let is_same = last.is_some_and(|last| last.submission.chain.is(&submission.chain));
        is_same && self.bytes >= ENOUGH_BYTES
    }

    /// Whether it has more than single messages, in the mean, or is long enough all the same.
    pub(super) fn has_batches(&self) -> bool {
        self.messages >= 2 * self.entries.len() || self.bytes >= ENOUGH_BYTES
    }

    /// Takes no more.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn add(
        &mut self,
        submission: Submission,
        routes: &Routes,
        storage: &Arc<dyn Storage>,
    ) {
        let mut places: Vec<Place> = Vec::with_capacity(1);
        let mut has_riders = false;
        let bytes = submission.batch.messages.iter().map(Message::size).sum();
        // The row of messages that name no stream, where all of them go to one.
        let mut usual = None;
        for message in &submission.batch.messages {
            let row = match usual {
                Some(row) if message.stream().is_none() => row,
                _ => {
                    let stream = message.stream().unwrap_or(&submission.stream);
                    let partitions = routes.partitions(stream);
                    let row = self.row(stream, partitions, message);
                    if partitions == 1 && message.stream().is_none() {
                        usual = Some(row);
                        self.rows[row].1.reserve(submission.batch.len(), bytes);
                    }
                    row
                }
            };
            let start = self.rows[row].1.push(message);
            match places.iter_mut().rfind(|place| place.row == row) {
                Some(place) => place.len += 1,
                None => places.push(Place { row, start, len: 1 }),
            }
            if message.has_commits() {
                has_riders = true;
                self.board(message, storage);
            }
        }
        self.bytes += bytes;
        self.messages += submission.batch.len();
        self.entries.push(Entry {
            submission,
            places,
            has_riders,
        });
    }

    /// The row for a message.
    fn row(&mut self, stream: &Name, partitions: u32, message: &Message) -> usize {
        let index = match message.key() {
            _ if partitions == 1 => 0,
            Some(key) => partition_of(key, partitions),
            // Those without a key stay together, and go on to the next partition with the next
            // statement.
            None => *self.turn.get_or_insert_with(next_turn) % partitions,
        };
        let found = self
            .rows
            .iter()
            .position(|(p, _)| p.index == index && p.stream == *stream);
        found.unwrap_or_else(|| {
            let partition = Partition {
                stream: stream.clone(),
                index,
            };
            self.rows.push((partition, RecordsBuilder::default()));
            self.rows.len() - 1
        })
    }

    /// Takes the commits of a message along, those that this storage can write in the same
    /// transaction.
    fn board(&mut self, message: &Message, storage: &Arc<dyn Storage>) {
        for commit in message.commits() {
            let session = commit.session();
            if !session.is_of(storage) {
                continue;
            }
            let at = match self
                .riders
                .iter()
                .rposition(|(s, _)| Arc::ptr_eq(s, session))
            {
                Some(at) => at,
                None => {
                    self.riders.push((session.clone(), Ranges::new()));
                    self.riders.len() - 1
                }
            };
            self.riders[at]
                .1
                .insert(commit.offset()..commit.offset() + 1);
        }
    }

    /// The partition that all of it goes to, if that is one.
    pub(super) fn partition(&self) -> Option<&Partition> {
        match &*self.rows {
            [(partition, _)] => Some(partition),
            _ => None,
        }
    }

    /// The statement as the storage gets it, under this id.
    pub(super) fn seal(&mut self, id: Id, after: Option<Id>) -> Arc<Append> {
        if let Some(append) = self.sealed.as_ref().filter(|append| append.id == id) {
            return append.clone();
        }
        let rows = std::mem::take(&mut self.rows).into_iter();
        let append = Arc::new(Append {
            id,
            after,
            // A row is made for its first message: there is none without.
            rows: rows
                .filter_map(|(partition, records)| {
                    let records = records.build()?;
                    Some(Row { partition, records })
                })
                .collect(),
            commits: self
                .riders
                .iter()
                .map(|(session, done)| (session.lease().clone(), done.clone()))
                .collect(),
        });
        self.sealed = Some(append.clone());
        append
    }

    pub(super) fn written(mut self, bases: &[u64], began: Duration, storage: &Arc<dyn Storage>) {
        for (session, _) in &self.riders {
            session.wrote(began);
        }
        let partitions = self.partitions();
        for entry in std::mem::take(&mut self.entries) {
            // Nobody asks a sink where its messages are.
            let rows = if entry.submission.atomic {
                rows(&partitions, &entry.places, bases)
            } else {
                Vec::new()
            };
            finish(entry.submission, entry.has_riders, rows, storage);
        }
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.doubt(error.in_doubt());
        for entry in std::mem::take(&mut self.entries) {
            entry.submission.fail(error.share());
        }
    }

    /// Lets each batch remember where to look for it, if that is needed.
    fn doubt(&mut self, in_doubt: bool) {
        let Some(append) = self.sealed.as_ref().filter(|_| in_doubt) else {
            return;
        };
        let (id, partitions) = (append.id, self.partitions());
        for entry in &mut self.entries {
            let mut sessions = Vec::new();
            if entry.has_riders {
                let messages = entry.submission.batch.messages.iter();
                sessions.extend(
                    messages
                        .flat_map(Message::commits)
                        .map(Commit::session)
                        .cloned(),
                );
                sessions.dedup_by(|a, b| Arc::ptr_eq(a, b));
            }
            entry.submission.batch.doubt = Some(Doubt {
                id,
                partitions: partitions.clone(),
                places: std::mem::take(&mut entry.places),
                sessions,
            });
        }
    }

    /// The same without what came from these leases.
    pub(super) fn without(
        mut self,
        leases: &[usize],
        routes: &Routes,
        storage: &Arc<dyn Storage>,
    ) -> Self {
        let lost: Vec<Arc<Session>> = leases
            .iter()
            .filter_map(|index| self.riders.get(*index))
            .map(|(session, _)| session.clone())
            .collect();
        for session in &lost {
            session.fence();
        }
        let is_lost = |message: &Message| {
            let mut sessions = message.commits().map(Commit::session);
            sessions.any(|session| lost.iter().any(|lost| Arc::ptr_eq(lost, session)))
        };
        let mut rest = Self::default();
        for mut entry in std::mem::take(&mut self.entries) {
            let submission = &mut entry.submission;
            if submission.atomic && submission.batch.messages.iter().any(is_lost) {
                entry.submission.fail(Error::new(
                    ErrorKind::Fenced,
                    "nothing of this append was written: it carries a commit of a lease that \
                     another consumer took over, who gets the message again",
                ));
                continue;
            }
            let before = submission.batch.len();
            submission
                .batch
                .messages
                .retain(|message| !is_lost(message));
            let dropped = before - submission.batch.len();
            if dropped > 0 {
                tracing::info!(
                    stream = %submission.stream,
                    messages = dropped,
                    "dropped relayed messages whose lease was taken over"
                );
            }
            if submission.batch.is_empty() {
                finish(entry.submission, false, Vec::new(), storage);
            } else {
                rest.add(entry.submission, routes, storage);
            }
        }
        rest
    }

    /// The same without what is behind a batch that failed.
    pub(super) fn unchained(mut self, routes: &Routes, storage: &Arc<dyn Storage>) -> Self {
        let mut rest = Self::default();
        for entry in std::mem::take(&mut self.entries) {
            if let Some(submission) = entry.submission.check_chain() {
                rest.add(submission, routes, storage);
            }
        }
        rest
    }

    pub(super) fn has_broken_chain(&self) -> bool {
        let mut chains = self.entries.iter().map(|entry| &entry.submission.chain);
        chains.any(|chain| chain.is_broken())
    }

    /// The same under a new id.
    pub(super) fn again(self, routes: &Routes, storage: &Arc<dyn Storage>) -> Self {
        self.without(&[], routes, storage)
    }

    /// Whether more than one batch is in it.
    pub(super) fn is_shared(&self) -> bool {
        self.entries.len() > 1
    }

    /// The same, each batch on its own.
    pub(super) fn apart(mut self, routes: &Routes, storage: &Arc<dyn Storage>) -> Vec<Self> {
        let entries = std::mem::take(&mut self.entries).into_iter();
        entries
            .map(|entry| {
                let mut alone = Self::default();
                alone.add(entry.submission, routes, storage);
                alone
            })
            .collect()
    }

    /// Gives the only batch back; the append is somebody else's.
    #[cfg(feature = "postgres")]
    pub(super) fn into_batch(mut self) -> Batch {
        self.sealed = None;
        let entry = self.entries.pop();
        entry
            .map(|entry| entry.submission.batch)
            .unwrap_or_default()
    }

    pub(super) fn partitions(&self) -> Arc<[Partition]> {
        let rows = self.sealed.iter().flat_map(|append| &append.rows);
        rows.map(|row| row.partition.clone()).collect()
    }
}

fn next_turn() -> u32 {
    static TURNS: AtomicU32 = AtomicU32::new(0);
    TURNS.fetch_add(1, Ordering::Relaxed)
}

/// Dropped with its task: if it was being written, nobody knows how that ended.
impl Drop for Statement {
    fn drop(&mut self) {
        self.doubt(true);
        for entry in std::mem::take(&mut self.entries) {
            entry.submission.orphan();
        }
    }
}

fn rows(partitions: &[Partition], places: &[Place], bases: &[u64]) -> Vec<AppendedRow> {
    places
        .iter()
        .filter_map(|place| {
            let partition = partitions.get(place.row)?;
            let start = bases.get(place.row)? + u64::from(place.start);
            Some(AppendedRow {
                stream: partition.stream.clone(),
                partition: partition.index,
                offsets: start..start + u64::from(place.len),
            })
        })
        .collect()
}

fn finish(
    mut submission: Submission,
    has_riders: bool,
    rows: Vec<AppendedRow>,
    storage: &Arc<dyn Storage>,
) {
    if has_riders {
        for message in &mut submission.batch.messages {
            for commit in message.take_commits() {
                commit.rode(storage);
            }
        }
    }
    let _ = submission.answer.send(Ok(rows));
}
