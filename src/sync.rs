//! Locks and atomics of this crate: std's, or in models those of shuttle, a scheduler that tries the orders
//! of events (`tests/models`).

#[cfg(not(all(test, shuttle)))]
use std::sync as imp;

#[cfg(all(test, shuttle))]
use shuttle::sync as imp;

pub(crate) use imp::MutexGuard;
pub(crate) use imp::atomic;

/// A mutex that is not poisoned by a panic.
///
/// Nothing in this crate panics halfway through a change of what a lock guards: wakers, drops of the
/// user's values and calls of a storage, which may panic, are made outside of it.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(imp::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(imp::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(imp::PoisonError::into_inner)
    }

    /// What it guards, where nobody else can have it.
    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0
            .get_mut()
            .unwrap_or_else(imp::PoisonError::into_inner)
    }
}
