//! What the writer remembers of the file between its transactions.

use std::collections::HashMap;
use std::ops::Range;

use ::redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::error::Fail;
use super::tables::{APPENDS, REFUSED, SWEEPS, Stream, decode_append};
use crate::storage::ids::{Ids, Outcome, REMEMBERED};
use crate::storage::{Id, Name};

/// What the writer knows of the file. It is thrown away when a transaction is aborted.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) streams: HashMap<Name, Stream>,
    pub(super) ends: HashMap<u64, End>,
    pub(super) ids: Ids,
    /// The keys in the tables of ids.
    pub(super) appends: Range<u64>,
    pub(super) refused: Range<u64>,
    /// Whether batches are left that were trimmed away.
    pub(super) has_sweeps: bool,
}

/// Where the log of a partition ends.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) next: u64,
    /// When it was last appended to; times never go back.
    pub(super) appended_at: i64,
}

impl Cache {
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

    /// Whether there is anything to delete.
    pub(super) fn has_old(&self) -> bool {
        let has_ids = outdated(&self.appends).is_some() || outdated(&self.refused).is_some();
        has_ids || self.has_sweeps
    }

    pub(super) fn has_written(&self, id: Id) -> bool {
        matches!(self.ids.get(id), Some(Outcome::Written(_)))
    }
}

fn extend(keys: &mut Range<u64>, key: u64) {
    if keys.is_empty() {
        keys.start = key;
    }
    keys.end = key + 1;
}

/// The keys to delete, once as many as are remembered have gathered: in bulk, because each of them
/// alone would dirty the oldest page with every append.
pub(super) fn outdated(keys: &Range<u64>) -> Option<Range<u64>> {
    let remembered = REMEMBERED as u64;
    (keys.end - keys.start >= 2 * remembered).then(|| keys.start..keys.end - remembered)
}
