//! The operations that write. Each checks before it writes, so that a refusal changes nothing.

use ::redb::ReadableTable;

use super::cache::LogEnd;
use super::delete::clear_log;
use super::error::{Answer, Fail};
use super::log::Log;
use super::tables::{
    GroupRow, Head, NEXT_STREAM, RowOffsets, StreamRow, encode_append, encode_batch,
};
use super::transaction::Transaction;
use crate::clock::from_micros;
use crate::error::Error;
use crate::storage::shared::groups::{StoredGroup, position_at};
use crate::storage::shared::ids::Outcome;
use crate::storage::shared::refusals::{fenced, no_group};
use crate::storage::shared::{groups, refusals};
use crate::storage::{
    Append, Appended, Claim, Group, GroupState, Id, Lease, Name, Notification, Partition, Progress,
    Reset, Row, Start, StreamSettings, Verdicts, WrittenRow,
};

impl Transaction<'_> {
    /// Makes a stream unless it is there, and gives its settings.
    pub(super) fn create_stream(
        &mut self,
        name: &Name,
        wanted: Option<u32>,
    ) -> Answer<StreamSettings> {
        if let Some(stream) = self.stream(name)? {
            return Ok(Ok(StreamSettings::new(stream.partitions)));
        }
        let partitions = match groups::partitions(name, wanted) {
            Ok(partitions) => partitions,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.has_written = true;
        let meta = self.meta.get()?;
        let next = meta.get(NEXT_STREAM)?.map_or(0, |next| next.value());
        let id = u32::try_from(next).map_err(|_| Fail::Damaged("the table flowstream".into()))?;
        meta.insert(NEXT_STREAM, next + 1)?;
        let stream = StreamRow { id, partitions };
        let value = stream.encode(name.as_str());
        let before = self.streams.get()?.insert(name.as_str(), &value[..])?;
        debug_assert!(before.is_none(), "a stream is made once");
        drop(before);
        self.cache.streams.insert(name.clone(), stream);
        Ok(Ok(StreamSettings::new(partitions)))
    }

    /// Appends rows to their logs, and writes the commits that go along.
    pub(super) fn append(&mut self, append: &Append) -> Answer<Appended> {
        match self.cache.ids.get(append.id) {
            Some(Outcome::Written(bases)) => return Ok(Ok(Appended::Known(bases.clone()))),
            Some(Outcome::Refused) => return Ok(Ok(Appended::Refused)),
            None => {}
        }
        if append
            .after
            .is_some_and(|after| !self.cache.ids.is_written(after))
        {
            return Ok(Ok(Appended::Early));
        }
        let mut commits = Vec::with_capacity(append.commits.len());
        let mut lost = Vec::new();
        for (index, (lease, done)) in append.commits.iter().enumerate() {
            match self.held(lease)? {
                Some((key, row)) => commits.push((lease, key, row, done)),
                None => lost.push(index),
            }
        }
        if !lost.is_empty() {
            return Ok(Ok(Appended::Fenced(lost)));
        }
        let mut keys = Vec::with_capacity(append.rows.len());
        for row in &append.rows {
            match self.partition(&row.partition)? {
                Some(key) => keys.push(key),
                None => return self.missing(&row.partition),
            }
            if let Err(refusal) = check_size(row) {
                return Ok(Err(refusal));
            }
        }
        for (lease, key, mut row, done) in commits {
            row.group.advance(done);
            self.put_group(key, &lease.group.name, row)?;
        }
        let mut rows = Vec::with_capacity(keys.len());
        let mut written = Vec::with_capacity(keys.len());
        for (row, key) in append.rows.iter().zip(keys) {
            let (row, appended_at) = self.append_row(row, key)?;
            written.push(WrittenRow {
                base_offset: row.base,
                appended_at: from_micros(appended_at),
            });
            rows.push(row);
        }
        self.remember_append(append.id, &rows)?;
        Ok(Ok(Appended::Written(written)))
    }

    /// Writes a batch to the end of its log: where it went, and when it was appended, in microseconds.
    fn append_row(&mut self, row: &Row, key: u64) -> Result<(RowOffsets, i64), Fail> {
        self.has_written = true;
        let end = self.end(key, &row.partition)?;
        let appended_at = end.appended_at.max(self.now);
        let (key, records) = ((key, end.next), &row.records);
        let len = Head::LEN + records.encoded_len();
        let mut value = self.batches.get()?.insert_reserve(key, len)?;
        encode_batch(key, appended_at, records, value.as_mut());
        let next = end.next + u64::from(records.len());
        debug_assert!(next > end.next, "a batch has a message");
        self.cache.ends.insert(key.0, LogEnd { next, appended_at });
        let partition = row.partition.clone();
        self.notifications
            .push(Notification::Appended(partition, next));
        let row = RowOffsets {
            partition: key.0,
            base: end.next,
            count: records.len(),
        };
        Ok((row, appended_at))
    }

    /// Where an append went, or `None`; then it is refused from now on.
    pub(super) fn settle(&mut self, id: Id) -> Answer<Option<Vec<u64>>> {
        match self.cache.ids.get(id) {
            Some(Outcome::Written(bases)) => return Ok(Ok(Some(bases.clone()))),
            Some(Outcome::Refused) => return Ok(Ok(None)),
            None if self.cache.ids.may_have_forgotten(id) => {
                return Ok(Err(refusals::forgotten(id)));
            }
            None => {}
        }
        self.has_written = true;
        let refused = self.refused.get()?;
        let before = refused.insert(self.cache.refused.end, id.0)?;
        debug_assert!(before.is_none(), "each refusal has a key of its own");
        drop(before);
        self.cache.refused.end += 1;
        self.cache.ids.insert(id, Outcome::Refused);
        Ok(Ok(None))
    }

    /// Makes a group unless it is there.
    pub(super) fn create_group(&mut self, group: &Group, start: Start) -> Answer<()> {
        let Some(key) = self.partition(&group.partition)? else {
            return self.missing(&group.partition);
        };
        if self.group(key, &group.name)?.is_some() {
            return Ok(Ok(()));
        }
        let bounds = self.bounds(key, &group.partition)?;
        let log = Log {
            batches: self.batches.get()?,
            key,
            partition: &group.partition,
        };
        let position = position_at(start, &bounds, |micros| log.appended_since(&bounds, micros))?;
        self.put_group(
            key,
            &group.name,
            GroupRow {
                group: StoredGroup::at(position),
                open_count: 0,
            },
        )?;
        Ok(Ok(()))
    }

    /// Gives the lease to the claimer, if it may have it, and says how the group stands then.
    pub(super) fn claim(&mut self, claim: &Claim) -> Answer<GroupState> {
        let Group { partition, name } = &claim.group;
        let key = self.partition(partition)?;
        let row = match key {
            Some(key) => self.group(key, name)?,
            None => None,
        };
        let (Some(key), Some(mut row)) = (key, row) else {
            return Ok(Err(no_group(&claim.group)));
        };
        let bounds = self.bounds(key, partition)?;
        if row.group.claim(claim, &bounds) {
            row = self.put_group(key, name, row)?;
        }
        Ok(Ok(row.group.state(row.liveness(self.open_count), bounds)))
    }

    /// Takes the lease away, and moves the position where that is asked for.
    pub(super) fn reset(&mut self, reset: &Reset) -> Answer<GroupState> {
        let Group { partition, name } = &reset.group;
        let key = self.partition(partition)?;
        let row = match key {
            Some(key) => self.group(key, name)?,
            None => None,
        };
        let (Some(key), Some(mut row)) = (key, row) else {
            return Ok(Err(no_group(&reset.group)));
        };
        let bounds = self.bounds(key, partition)?;
        let state = row
            .group
            .state(row.liveness(self.open_count), bounds.clone());
        if state.is_held() && !reset.is_forced {
            return Ok(Err(refusals::active(&reset.group)));
        }
        let log = Log {
            batches: self.batches.get()?,
            key,
            partition,
        };
        let since = |micros| log.appended_since(&bounds, micros);
        let to = reset.to.map(|to| position_at(to, &bounds, since));
        row.group.reset(to.transpose()?);
        let row = self.put_group(key, name, row)?;
        self.notifications
            .push(Notification::Released(partition.clone()));
        Ok(Ok(row.group.state(row.liveness(self.open_count), bounds)))
    }

    /// Adds to what the owner of a lease has done and tried.
    pub(super) fn commit(&mut self, lease: &Lease, verdicts: &Verdicts) -> Answer<Progress> {
        let Some((key, mut row)) = self.held(lease)? else {
            return Ok(Err(fenced(lease)));
        };
        row.group.commit(verdicts);
        let row = self.put_group(key, &lease.group.name, row)?;
        Ok(Ok(row.group.progress))
    }

    /// Gives a lease back, if it is still this one.
    pub(super) fn release(&mut self, lease: &Lease) -> Answer<()> {
        if let Some((key, mut row)) = self.held(lease)? {
            row.group.release();
            self.put_group(key, &lease.group.name, row)?;
            let partition = lease.group.partition.clone();
            self.notifications.push(Notification::Released(partition));
        }
        Ok(Ok(()))
    }

    /// Moves the start of a log, and deletes what lies before it as far as the budget goes; the sweep
    /// does the rest.
    pub(super) fn trim(&mut self, partition: &Partition, before: u64) -> Answer<u64> {
        let Some(key) = self.partition(partition)? else {
            return self.missing(partition);
        };
        let bounds = self.bounds(key, partition)?;
        let batches = self.batches.get()?;
        let log = Log {
            batches: &*batches,
            key,
            partition,
        };
        // The only one that can end there is the newest: behind any other the next begins.
        let Some(last) = log.last_until(before)? else {
            return Ok(Ok(bounds.start));
        };
        let is_newest = last.end() <= before;
        let start = if is_newest { last.end() } else { last.base };
        if start <= bounds.start {
            return Ok(Ok(bounds.start));
        }
        self.has_written = true;
        self.starts.get()?.insert(key, start)?;
        debug_assert!(
            start <= bounds.end,
            "a log starts where it ends at the latest"
        );
        let batches = self.batches.get()?;
        if !clear_log(batches, key, start, &mut self.delete_budget)? {
            self.sweeps.get()?.insert(key, ())?;
            self.cache.has_sweeps = true;
        }
        Ok(Ok(start))
    }

    /// Keeps the id of an append, so that it is known when it comes again.
    fn remember_append(&mut self, id: Id, rows: &[RowOffsets]) -> Result<(), Fail> {
        self.has_written = true;
        let appends = self.appends.get()?;
        let value = encode_append(id, rows);
        let before = appends.insert(self.cache.appends.end, &value[..])?;
        debug_assert!(before.is_none(), "each append has a key of its own");
        drop(before);
        self.cache.appends.end += 1;
        let bases = rows.iter().map(|row| row.base).collect();
        self.cache.ids.insert(id, Outcome::Written(bases));
        Ok(())
    }
}

/// Refuses a batch that redb could not take.
fn check_size(row: &Row) -> Result<(), Error> {
    // redb takes values of up to 3 GiB.
    const MAX_BYTES: usize = 2 * 1024 * 1024 * 1024;
    let bytes = row.records.encoded_len();
    if bytes <= MAX_BYTES {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a batch of {bytes} bytes for {} is over the limit of {MAX_BYTES}: append less at once",
        row.partition
    )))
}
