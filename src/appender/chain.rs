//! Batches that keep their order.

use std::sync::{Arc, OnceLock};

use crate::error::Error;

/// Batches of one chain are written in the order in which they were handed in. Once one of them is
/// not written, none of those behind it is: they come back as well.
#[derive(Debug, Clone)]
pub(crate) struct Chain(Arc<OnceLock<Break>>);

/// Why a chain ended.
#[derive(Debug)]
pub(super) enum Break {
    Failed(Error),
    /// The task ended with its runtime.
    Orphaned,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.get().is_some()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The first reason counts.
    pub(super) fn end(&self, reason: Break) {
        let _ = self.0.set(reason);
    }

    pub(super) fn broken(&self) -> Option<&Break> {
        self.0.get()
    }
}
