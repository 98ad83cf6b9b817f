//! Whether the storage fails.

use crate::error::Error;
use crate::sync::{Mutex, MutexGuard};

/// The error of the last call of a kind, if that failed.
#[derive(Debug, Default)]
pub(super) struct Failure(Mutex<Option<Error>>);

impl Failure {
    pub(super) fn set(&self, error: &Error) {
        let former = self.last().replace(error.share_undoubted());
        drop(former);
    }

    pub(super) fn clear(&self) {
        let former = self.last().take();
        drop(former);
    }

    /// The error of the last call, for a request that was not tried.
    pub(super) fn get(&self) -> Option<Error> {
        self.last().as_ref().map(Error::share)
    }

    fn last(&self) -> MutexGuard<'_, Option<Error>> {
        self.0.lock()
    }
}
