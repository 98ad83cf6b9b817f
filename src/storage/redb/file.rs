//! The open file: shared by all who read and by the one who writes; closed, or opened anew, by either.
//!
//! Locks are taken in this order: the state of the file, then the writer's cache, or those of the
//! subscribers where the file is closed. Whoever works with the file holds the first one shared
//! meanwhile, so that it stays open. The lock of the write queue is held with none of them.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{PoisonError, RwLock};

use ::redb::{Database, ReadTransaction, ReadableDatabase};

use super::cache::WriterCache;
use super::error::{Answer, guarded};
use super::open::{self, OpenDatabase};
use super::options::RedbOptions;
use super::place::{self, FileId, Place};
use crate::error::Result;
use crate::storage::shared::refusals::closed;
use crate::sync::Mutex;

/// A file that was opened once, and is until it is closed, whatever errors there were meanwhile.
pub(super) struct StorageFile {
    pub(super) path: PathBuf,
    pub(super) options: RedbOptions,
    /// The open count of the file, and so the one of the owners that live. It stays the same when the
    /// file is opened anew after an error.
    pub(super) open_count: u64,
    id: FileId,
    /// Guards the database: shared by all who use it, alone for who closes it or opens it anew.
    state: RwLock<FileState>,
}

enum FileState {
    /// The file is open.
    Open(Box<OpenFile>),
    /// Opening the file anew failed, after that had been done so often; the next operation tries again.
    Broken(u64),
    /// The file was closed, and stays so.
    Closed,
}

/// The file while it is open, and what lasts until it is opened anew.
pub(super) struct OpenFile {
    /// The field before the database, because it is dropped first: its handle shares the locks.
    pub(super) place: Place,
    pub(super) db: Database,
    /// Guards what the writer knows of the file; held for a transaction that writes, so there is one
    /// at a time. `None` before the first write, and after one that was aborted.
    pub(super) cache: Mutex<Option<WriterCache>>,
    /// A sweep failed: none is tried again before the file is opened anew.
    pub(super) has_failed_sweep: AtomicBool,
    /// How often the file had been opened anew before.
    pub(super) reopens: u64,
}

impl StorageFile {
    /// Opens the file, or makes it if there is none.
    pub(super) fn open(path: PathBuf, options: RedbOptions) -> Result<Self> {
        let path = place::absolute(&path)?;
        let opened = open::open(&path, &options)?;
        debug_assert!(opened.open_count > 0, "it counts this open");
        Ok(Self {
            path,
            options,
            open_count: opened.open_count,
            id: opened.place.id,
            state: RwLock::new(FileState::Open(Box::new(OpenFile::new(opened, 0)))),
        })
    }

    /// Runs `work` with the open file, which stays open meanwhile.
    pub(super) fn with_open<T>(&self, work: impl FnOnce(&OpenFile) -> T) -> Result<T> {
        loop {
            let reopens = match &*self.state.read().unwrap_or_else(PoisonError::into_inner) {
                FileState::Open(open) => return Ok(work(open)),
                FileState::Broken(reopens) => *reopens,
                FileState::Closed => return Err(closed()),
            };
            self.reopen(reopens)?;
        }
    }

    /// Reads from a snapshot.
    pub(super) fn snapshot<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Answer<T>,
    ) -> Result<T> {
        let (reopens, answer) = self.with_open(|open| {
            let answer = guarded(|| work(&open.db.begin_read()?));
            (open.reopens, answer)
        })?;
        answer.unwrap_or_else(|fail| {
            if fail.needs_reopen() {
                // If that fails, the next operation tries again.
                let _ = self.reopen(reopens);
            }
            Err(fail.explain(&self.path))
        })
    }

    /// Opens the file anew, unless somebody did so since it had been opened anew `reopens` times: after
    /// an I/O error redb refuses everything until then.
    pub(super) fn reopen(&self, reopens: u64) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            FileState::Open(open) if open.reopens != reopens => {
                debug_assert!(open.reopens > reopens, "nobody knows a later one");
                return Ok(());
            }
            FileState::Open(_) | FileState::Broken(_) => {}
            FileState::Closed => return Err(closed()),
        }
        let broken = mem::replace(&mut *state, FileState::Broken(reopens));
        // It is in a bad state already: what closing it says is of no interest.
        let _ = guarded(|| {
            drop(broken);
            Ok(())
        });
        tracing::warn!(path = %self.path.display(), "opening the file anew after an error");
        let opened = open::reopen(&self.path, &self.options, self.id, self.open_count)?;
        debug_assert_eq!(opened.place.id, self.id, "it is the same file");
        *state = FileState::Open(Box::new(OpenFile::new(opened, reopens + 1)));
        Ok(())
    }

    /// Lets go of the file, after those who use it now. `once_closed` runs when nobody can reach the
    /// file any more, before the disk is waited for.
    pub(super) fn close(&self, once_closed: impl FnOnce()) -> Result<()> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut *state, FileState::Closed);
        once_closed();
        match before {
            FileState::Open(open) => {
                let OpenFile { place, db, .. } = *open;
                drop(place);
                guarded(|| Ok(db.close()?)).map_err(|fail| fail.explain(&self.path))
            }
            FileState::Broken(_) | FileState::Closed => Ok(()),
        }
    }
}

/// Whoever had the file last closes it. To close a damaged one may panic, which is caught here.
impl Drop for StorageFile {
    fn drop(&mut self) {
        // It does nothing if the file is closed, and there is nobody to be told.
        let _ = self.close(|| ());
    }
}

impl OpenFile {
    fn new(opened: OpenDatabase, reopens: u64) -> Self {
        Self {
            place: opened.place,
            db: opened.db,
            cache: Mutex::new(None),
            has_failed_sweep: AtomicBool::new(false),
            reopens,
        }
    }
}
