//! What the disk and redb can do without this crate.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use crate::support::{SIZE, noise};

const BLOBS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("blobs");
const POSITIONS: TableDefinition<'static, u64, u64> = TableDefinition::new("positions");

/// The cache that flowstream gives redb if nobody says otherwise, in bytes.
pub(crate) const CACHE: usize = 64 << 20;

/// redb with one table of values.
pub(crate) struct RawRedb {
    db: Database,
    next: u64,
}

impl RawRedb {
    pub(crate) fn create(path: &Path) -> Self {
        let mut builder = Database::builder();
        let db = builder.set_cache_size(CACHE).create(path);
        Self {
            db: db.expect("a new database"),
            next: 0,
        }
    }

    /// Writes one value in one durable transaction.
    pub(crate) fn commit(&mut self, blob: &[u8]) {
        let mut txn = self.db.begin_write().expect("a transaction");
        txn.set_durability(Durability::Immediate)
            .expect("no savepoint");
        let mut table = txn.open_table(BLOBS).expect("a table");
        table.insert(self.next, blob).expect("a value");
        drop(table);
        txn.commit().expect("a commit");
        self.next += 1;
    }

    /// Messages a second, with so many in a value.
    pub(crate) fn produce(&mut self, batch: usize, window: Duration) -> f64 {
        let blob = noise(batch * SIZE);
        rate(batch, window, || self.commit(&blob))
    }

    /// Reads all values, each copied out, from snapshots of about 1 MiB; notes the place after each
    /// value in a durable transaction if asked to. The number of bytes.
    pub(crate) fn drain(&self, is_committing: bool) -> usize {
        let mut bytes = 0;
        let mut next = 0;
        while next < self.next {
            for copy in self.read(next, 1 << 20) {
                bytes += copy.len();
                next += 1;
                if is_committing {
                    self.note(next);
                }
            }
        }
        bytes
    }

    fn read(&self, from: u64, max_bytes: usize) -> Vec<Bytes> {
        let txn = self.db.begin_read().expect("a snapshot");
        let table = txn.open_table(BLOBS).expect("the table");
        let mut copies = Vec::new();
        let mut bytes = 0;
        for entry in table.range(from..).expect("values") {
            let copy = Bytes::copy_from_slice(entry.expect("a value").1.value());
            bytes += copy.len();
            copies.push(copy);
            if bytes >= max_bytes {
                break;
            }
        }
        copies
    }

    fn note(&self, position: u64) {
        let mut txn = self.db.begin_write().expect("a transaction");
        txn.set_durability(Durability::Immediate)
            .expect("no savepoint");
        let mut table = txn.open_table(POSITIONS).expect("a table");
        table.insert(0, position).expect("a value");
        drop(table);
        txn.commit().expect("a commit");
    }
}

/// A file that is appended to and synced.
pub(crate) struct RawFile(File);

impl RawFile {
    pub(crate) fn create(path: &Path) -> Self {
        Self(File::create_new(path).expect("a new file"))
    }

    /// Messages a second, with so many in one write.
    pub(crate) fn produce(&mut self, batch: usize, window: Duration) -> f64 {
        let blob = noise(batch * SIZE);
        rate(batch, window, || {
            self.0.write_all(&blob).expect("room on the disk");
            self.0.sync_data().expect("a sync");
        })
    }
}

pub(crate) fn rate(batch: usize, window: Duration, mut write: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut batches = 0;
    while began.elapsed() < window {
        write();
        batches += 1;
    }
    (batches * batch) as f64 / began.elapsed().as_secs_f64()
}
