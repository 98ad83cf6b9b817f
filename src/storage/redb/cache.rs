//! What the writer remembers of the file between its transactions. Nothing to do with redb's cache of
//! pages.

use std::collections::HashMap;
use std::ops::Range;

use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::error::Fail;
use super::tables::{APPENDS, REFUSED, SWEEPS, StreamRow, decode_append};
use crate::storage::shared::ids::{Ids, Outcome, REMEMBERED};
use crate::storage::{Id, Name};

/// What the writer knows of the file. It is thrown away when a transaction is aborted.
#[derive(Default)]
pub(super) struct WriterCache {
    /// Streams that were written to.
    pub(super) streams: HashMap<Name, StreamRow>,
    /// Where logs end, by the key of their partition.
    pub(super) ends: HashMap<u64, LogEnd>,
    /// The last appends and the last refusals.
    pub(super) ids: Ids,
    /// The keys in the table of appends.
    pub(super) appends: Range<u64>,
    /// The keys in the table of refusals.
    pub(super) refused: Range<u64>,
    /// Whether batches are left that were trimmed away.
    pub(super) has_sweeps: bool,
}

/// Where the log of a partition ends.
#[derive(Clone, Copy)]
pub(super) struct LogEnd {
    /// The offset of the next message.
    pub(super) next: u64,
    /// When it was last appended to; times never go back.
    pub(super) appended_at: i64,
}

impl WriterCache {
    /// Reads what the writer has to know before it begins.
    pub(super) fn load(txn: &ReadTransaction) -> Result<Self, Fail> {
        let mut cache = Self::default();
        for entry in txn.open_table(APPENDS)?.iter()? {
            let (key, value) = entry?;
            let append = decode_append(value.value());
            let damaged = || Fail::Damaged("the table of recent appends".to_owned());
            let (id, rows) = append.ok_or_else(damaged)?;
            if cache.appends.is_empty() && key.value() > 0 {
                // Those before it were deleted.
                cache.ids.forget_until(id);
            }
            let bases = rows.iter().map(|row| row.base).collect();
            cache.ids.insert(id, Outcome::Written(bases));
            extend(&mut cache.appends, key.value());
        }
        for entry in txn.open_table(REFUSED)?.iter()? {
            let (key, id) = entry?;
            cache.ids.insert(Id(id.value()), Outcome::Refused);
            extend(&mut cache.refused, key.value());
        }
        cache.has_sweeps = !txn.open_table(SWEEPS)?.is_empty()?;
        Ok(cache)
    }

    /// Whether there is anything to sweep: old ids, or batches that were trimmed away.
    pub(super) fn has_old(&self) -> bool {
        let has_ids = outdated(&self.appends).is_some() || outdated(&self.refused).is_some();
        has_ids || self.has_sweeps
    }

    /// Whether the append with this id is in the log.
    pub(super) fn has_written(&self, id: Id) -> bool {
        self.ids.is_written(id)
    }
}

/// The keys of ids to sweep, once as many as are remembered have gathered: in bulk, because each of them
/// alone would dirty the oldest page with every append.
pub(super) fn outdated(keys: &Range<u64>) -> Option<Range<u64>> {
    debug_assert!(keys.start <= keys.end, "{keys:?}");
    let remembered = REMEMBERED as u64;
    (keys.end - keys.start >= 2 * remembered).then(|| keys.start..keys.end - remembered)
}

/// Takes in a key that follows on the others, or is the first.
fn extend(keys: &mut Range<u64>, key: u64) {
    if keys.is_empty() {
        keys.start = key;
    }
    keys.end = key + 1;
}
