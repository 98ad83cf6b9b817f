//! Writes that need no function where nobody is in their way.

use std::sync::atomic::{AtomicU32, Ordering};

use super::connect::Connections;
use super::core::Core;

/// Whether a write is likely to find nobody in its way. One that does goes twice, so after it some do
/// not try.
#[derive(Debug, Default)]
pub(super) struct Alone {
    detours: AtomicU32,
}

impl Alone {
    const DETOURS: u32 = 16;

    fn is_likely(&self) -> bool {
        let one_less = |detours: u32| detours.checked_sub(1);
        let order = Ordering::Relaxed;
        self.detours.fetch_update(order, order, one_less).is_err()
    }

    pub(super) fn was_not(&self) {
        self.detours.store(Self::DETOURS, Ordering::Relaxed);
    }
}

impl Core {
    /// Only in a session of ours, which was told at its beginning what the functions say themselves.
    pub(super) fn may_be_alone(&self, sessions: &Connections, alone: &Alone) -> bool {
        self.is_direct && matches!(sessions, Connections::Ours(_)) && alone.is_likely()
    }
}
