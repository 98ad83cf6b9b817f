//! The open file: shared by readers, used by one writer, closed or opened anew by either.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Condvar, Mutex, PoisonError, RwLock};

use ::redb::{Database, ReadTransaction, ReadableDatabase};

use super::cache::Cache;
use super::error::{Fail, guarded};
use super::open::{self, OpenFile, RedbOptions};
use super::place::{self, FileId, Place};
use super::queue::Queue;
use crate::error::{Error, Result};
use crate::storage::group::closed;
use crate::storage::notify::Notifier;

/// What an operation says: the outer result is whether it could be done at all, the inner one is
/// its answer, which may be a refusal that changed nothing.
pub(super) type Done<T> = Result<Result<T, Error>, Fail>;

pub(super) struct Core {
    pub(super) path: PathBuf,
    pub(super) options: RedbOptions,
    pub(super) boot: u64,
    file_id: FileId,
    pub(super) queue: Mutex<Queue>,
    /// Told when a job of the queue has ended.
    pub(super) job_ended: Condvar,
    pub(super) notifier: Notifier,
    file: RwLock<File>,
}

enum File {
    Open(Box<Opened>),
    /// Opening it anew failed, after this many times; the next operation tries again.
    Broken(u64),
    Closed,
}

pub(super) struct Opened {
    pub(super) place: Place,
    pub(super) db: Database,
    /// Of the writer; `None` before the first write, and after one that was aborted.
    pub(super) cache: Mutex<Option<Cache>>,
    /// What is old could not be deleted: not tried again before it is opened anew.
    pub(super) has_failed_sweep: AtomicBool,
    /// Counts how often it was opened anew.
    pub(super) serial: u64,
}

impl Core {
    pub(super) fn open(path: PathBuf, options: RedbOptions) -> Result<Self> {
        let path = place::absolute(&path)?;
        let file = open::open(&path, &options)?;
        Ok(Self {
            path,
            options,
            boot: file.boot,
            file_id: file.place.id,
            queue: Mutex::default(),
            job_ended: Condvar::new(),
            notifier: Notifier::new(),
            file: RwLock::new(File::Open(Box::new(Opened::new(file, 0)))),
        })
    }

    /// Runs `work` with the open file, which stays open meanwhile.
    pub(super) fn with_open<T>(&self, work: impl FnOnce(&Opened) -> T) -> Result<T> {
        loop {
            let serial = match &*self.file.read().unwrap_or_else(PoisonError::into_inner) {
                File::Open(opened) => return Ok(work(opened)),
                File::Broken(serial) => *serial,
                File::Closed => return Err(closed()),
            };
            self.reopen(serial)?;
        }
    }

    /// Reads from a snapshot.
    pub(super) fn snapshot<T>(&self, work: impl FnOnce(&ReadTransaction) -> Done<T>) -> Result<T> {
        let (serial, done) = self.with_open(|opened| {
            let done = guarded(|| work(&opened.db.begin_read()?));
            (opened.serial, done)
        })?;
        done.unwrap_or_else(|fail| {
            if fail.is_lasting() {
                // If that fails, the next operation tries again.
                let _ = self.reopen(serial);
            }
            Err(fail.explain(&self.path))
        })
    }

    /// After an I/O error redb refuses everything until it is opened anew.
    pub(super) fn reopen(&self, serial: u64) -> Result<()> {
        let mut file = self.file.write().unwrap_or_else(PoisonError::into_inner);
        match &*file {
            File::Open(opened) if opened.serial != serial => return Ok(()),
            File::Open(_) | File::Broken(_) => {}
            File::Closed => return Err(closed()),
        }
        let broken = mem::replace(&mut *file, File::Broken(serial));
        // It is in a bad state already: what closing it says is of no interest.
        let _ = guarded(|| {
            drop(broken);
            Ok(())
        });
        tracing::warn!(path = %self.path.display(), "opening the file anew after an error");
        let opened = open::reopen(&self.path, &self.options, (self.file_id, self.boot))?;
        *file = File::Open(Box::new(Opened::new(opened, serial + 1)));
        Ok(())
    }

    /// Lets go of the file, after those who use it now.
    pub(super) fn close(&self) -> Result<()> {
        let mut file = self.file.write().unwrap_or_else(PoisonError::into_inner);
        let before = mem::replace(&mut *file, File::Closed);
        self.notifier.close();
        match before {
            File::Open(opened) => {
                let Opened { place, db, .. } = *opened;
                drop(place);
                guarded(|| Ok(db.close()?)).map_err(|fail| fail.explain(&self.path))
            }
            File::Broken(_) | File::Closed => Ok(()),
        }
    }
}

/// Where a job had the file last.
impl Drop for Core {
    fn drop(&mut self) {
        // It does nothing if the file is closed, and there is nobody to be told.
        let _ = self.close();
    }
}

impl Opened {
    fn new(file: OpenFile, serial: u64) -> Self {
        Self {
            place: file.place,
            db: file.db,
            cache: Mutex::new(None),
            has_failed_sweep: AtomicBool::new(false),
            serial,
        }
    }
}
