//! What goes to the storage in one call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::outcome::{finish, rows};
use super::request::AppendRequest;
use super::routing::{Routing, index_of};
use super::rows::Rows;
use super::sequence::Sequence;
use crate::error::Error;
#[cfg(feature = "postgres")]
use crate::message::Batch;
use crate::message::Message;
use crate::name::Name;
use crate::session::{Commit, InDoubt, Session, Span};
use crate::storage::{Append, Id, Partition, Ranges, Storage};

/// A group write takes no more once it has so many bytes.
const FULL_BYTES: usize = 4 << 20;
const FULL_MESSAGES: usize = 1 << 16;
/// With so many bytes it takes no second batch in a row of the same producer: that one is better sent
/// while this one is under way. What is shorter costs less together than one after the other.
const ENOUGH_BYTES: usize = 64 << 10;

/// Append requests, gathered: all messages that go to one partition share one row.
#[derive(Debug, Default)]
pub(super) struct GroupWrite {
    pub(super) entries: Vec<Entry>,
    /// How many entries it has had.
    added: usize,
    rows: Rows,
    pub(super) commits: Vec<(Arc<Session>, Ranges)>,
    /// Where each session is among them, by its address.
    attached: HashMap<usize, usize>,
    bytes: usize,
    messages: usize,
    /// Where messages without a key go, modulo the number of partitions.
    turn: Option<u32>,
    is_closed: bool,
    /// What was given to the storage.
    sealed: Option<Arc<Append>>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) request: AppendRequest,
    spans: Vec<Span>,
    pub(super) carries_commits: bool,
}

impl GroupWrite {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.bytes < FULL_BYTES && self.messages < FULL_MESSAGES && !self.is_closed
    }

    /// Whether this one is better left for the next group write.
    pub(super) fn is_enough_for(&self, request: &AppendRequest) -> bool {
        let last = self.entries.last();
        let is_same = last.is_some_and(|last| last.request.sequence.is(&request.sequence));
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
        request: AppendRequest,
        routing: &Routing,
        storage: &Arc<dyn Storage>,
    ) {
        let mut spans: Vec<Span> = Vec::with_capacity(1);
        self.added += 1;
        let (entry, mut carries_commits) = (self.added, false);
        let bytes = request.size();
        // The row of messages that name no stream, where all of them go to one.
        let mut usual = None;
        for message in &request.batch.messages {
            let row = match usual {
                Some(row) if message.stream().is_none() => row,
                _ => {
                    let stream = message.stream().unwrap_or(&request.stream);
                    let partitions = routing.partitions(stream);
                    let row = self.row(stream, partitions, message);
                    if partitions == 1 && message.stream().is_none() {
                        usual = Some(row);
                        let records = &mut self.rows.get_mut(row).records;
                        records.reserve(request.batch.len(), bytes);
                    }
                    row
                }
            };
            let drafted = self.rows.get_mut(row);
            let start = drafted.records.push(message);
            match drafted.span_of(entry) {
                Some(span) => spans[span].len += 1,
                None => {
                    drafted.set_span(entry, spans.len());
                    spans.push(Span { row, start, len: 1 });
                }
            }
            if message.has_commits() {
                carries_commits = true;
                self.attach(message, storage);
            }
        }
        self.bytes += bytes;
        self.messages += request.batch.len();
        self.entries.push(Entry {
            request,
            spans,
            carries_commits,
        });
    }

    /// The row for a message.
    fn row(&mut self, stream: &Name, partitions: u32, message: &Message) -> usize {
        // Those without a key stay together, and go on to the next partition with the next group write.
        let index = index_of(message, partitions, || self.turn());
        self.rows.at(stream, index)
    }

    /// Takes the commits of a message along, those that this storage can write in the same
    /// transaction.
    fn attach(&mut self, message: &Message, storage: &Arc<dyn Storage>) {
        for commit in message.commits() {
            let session = commit.session();
            if !session.is_of(storage) {
                continue;
            }
            let offsets = commit.offset()..commit.offset() + 1;
            // Mostly the same as the one before.
            if let Some((last, done)) = self.commits.last_mut()
                && Arc::ptr_eq(last, session)
            {
                done.insert(offsets);
                continue;
            }
            let address = Arc::as_ptr(session).addr();
            let at = *self.attached.entry(address).or_insert(self.commits.len());
            if at == self.commits.len() {
                self.commits.push((session.clone(), Ranges::new()));
            }
            self.commits[at].1.insert(offsets);
        }
    }

    /// The partition that all of it goes to, if that is one.
    pub(super) fn partition(&self) -> Option<&Partition> {
        let mut partitions = self.rows.partitions();
        let is_one = partitions.len() == 1;
        partitions.next().filter(|_| is_one)
    }

    /// What it goes to, before it is sealed.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Partition> {
        self.rows.partitions()
    }

    /// The sequences of what is in it, by their addresses.
    pub(super) fn sequences(&self) -> impl Iterator<Item = usize> {
        let sequences = self.entries.iter().map(|entry| &entry.request.sequence);
        sequences.map(Sequence::address)
    }

    /// Which partitions messages without a key go to: this, modulo their number.
    pub(super) fn turn(&mut self) -> u32 {
        *self.turn.get_or_insert_with(next_turn)
    }

    /// Another one, while there is nothing in it.
    pub(super) fn pass_turn(&mut self) {
        if self.is_empty() {
            self.turn = None;
        }
    }

    /// The group write as the storage gets it, under this id.
    pub(super) fn seal(&mut self, id: Id, after: Option<Id>) -> Arc<Append> {
        if let Some(append) = self.sealed.as_ref().filter(|append| append.id == id) {
            return append.clone();
        }
        let append = Arc::new(Append {
            id,
            after,
            rows: std::mem::take(&mut self.rows).seal(),
            commits: self
                .commits
                .iter()
                .map(|(session, done)| (session.lease().clone(), done.clone()))
                .collect(),
        });
        self.sealed = Some(append.clone());
        append
    }

    /// The id under which it was given to the storage.
    pub(super) fn id(&self) -> Option<Id> {
        self.sealed.as_ref().map(|append| append.id)
    }

    pub(super) fn written(mut self, bases: &[u64], began: Duration, storage: &Arc<dyn Storage>) {
        for (session, _) in &self.commits {
            session.wrote(began);
        }
        // Nobody asks a sink where its messages are.
        let is_asked = self.entries.iter().any(|entry| entry.request.atomic);
        let partitions = is_asked.then(|| self.partitions());
        for entry in std::mem::take(&mut self.entries) {
            let rows = match &partitions {
                Some(partitions) if entry.request.atomic => rows(partitions, &entry.spans, bases),
                _ => Vec::new(),
            };
            finish(entry.request, entry.carries_commits, rows, storage);
        }
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.set_in_doubt(error.in_doubt());
        for request in self.take_all() {
            request.fail(error.share());
        }
    }

    /// When the last of the budgets is over.
    pub(super) fn deadline(&self) -> Duration {
        let deadlines = self.entries.iter().map(|entry| entry.request.deadline);
        deadlines.max().unwrap_or_default()
    }

    /// Whether all budgets are over then.
    pub(super) fn is_overdue(&self, then: Duration) -> bool {
        self.deadline() <= then
    }

    /// Lets those fail whose budget is over then, and what is behind them. Whether there were any.
    pub(super) fn give_up(&mut self, then: Duration, error: &Error) -> bool {
        let mut is_smaller = false;
        let partitions = self.partitions();
        let append = self.sealed.clone().filter(|_| error.in_doubt());
        for mut entry in std::mem::take(&mut self.entries) {
            let request = &entry.request;
            if request.deadline > then && !request.sequence.is_broken() {
                self.entries.push(entry);
                continue;
            }
            is_smaller = true;
            if let Some(append) = &append {
                entry.set_in_doubt(append.id, &partitions);
            }
            entry.request.fail(error.share());
        }
        is_smaller
    }

    /// Lets each batch remember where to look for it, if that is needed.
    fn set_in_doubt(&mut self, in_doubt: bool) {
        if !in_doubt || self.entries.is_empty() {
            return;
        }
        let Some(append) = self.sealed.clone() else {
            return;
        };
        let partitions = self.partitions();
        for entry in &mut self.entries {
            entry.set_in_doubt(append.id, &partitions);
        }
    }

    pub(super) fn requests(&self) -> impl Iterator<Item = &AppendRequest> {
        self.entries.iter().map(|entry| &entry.request)
    }

    pub(super) fn take_all(&mut self) -> impl Iterator<Item = AppendRequest> + use<> {
        let entries = std::mem::take(&mut self.entries).into_iter();
        entries.map(|entry| entry.request)
    }

    /// Whether more than one batch is in it.
    pub(super) fn is_shared(&self) -> bool {
        self.entries.len() > 1
    }

    /// Gives the only batch back; the append is somebody else's.
    #[cfg(feature = "postgres")]
    pub(super) fn into_batch(mut self) -> Batch {
        self.sealed = None;
        let entry = self.entries.pop();
        entry
            .map(|entry| entry.request.into_batch())
            .unwrap_or_default()
    }

    pub(super) fn partitions(&self) -> Arc<[Partition]> {
        let rows = self.sealed.iter().flat_map(|append| &append.rows);
        rows.map(|row| row.partition.clone()).collect()
    }
}

impl Entry {
    fn set_in_doubt(&mut self, id: Id, partitions: &Arc<[Partition]>) {
        let mut sessions = Vec::new();
        if self.carries_commits {
            let commits = self.request.batch.messages.iter();
            let commits = commits.flat_map(Message::commits);
            sessions.extend(commits.map(Commit::session).cloned());
            sessions.dedup_by(|a, b| Arc::ptr_eq(a, b));
        }
        self.request.batch.in_doubt = Some(Box::new(InDoubt {
            id,
            partitions: partitions.clone(),
            spans: std::mem::take(&mut self.spans),
            sessions,
        }));
    }
}

fn next_turn() -> u32 {
    static TURNS: AtomicU32 = AtomicU32::new(0);
    TURNS.fetch_add(1, Ordering::Relaxed)
}

/// Dropped with its task: if it was being written, nobody knows how that ended.
impl Drop for GroupWrite {
    fn drop(&mut self) {
        self.set_in_doubt(true);
        // Each of them says so, dropped.
    }
}
