//! Writes that need no function where nobody is in their way.

use std::sync::atomic::{AtomicU32, Ordering};

/// Whether a write is likely to find nobody in its way. One that finds somebody goes a second time, with
/// the function, so after it some go with the function at once.
#[derive(Debug, Default)]
pub(super) struct FastPath {
    /// How many writes still go with the function at once. A guess: a write that reads an old number only
    /// takes the longer way, so no order of memory is needed.
    detours: AtomicU32,
}

impl FastPath {
    const DETOURS: u32 = 16;

    /// Whether this write is to try it. Counts the writes that are not.
    pub(super) fn is_likely(&self) -> bool {
        let one_less = |detours: u32| detours.checked_sub(1);
        // Relaxed: see the field.
        let order = Ordering::Relaxed;
        self.detours.fetch_update(order, order, one_less).is_err()
    }

    /// Somebody was in the way of one that tried it.
    pub(super) fn back_off(&self) {
        // Relaxed: see the field.
        self.detours.store(Self::DETOURS, Ordering::Relaxed);
    }
}
