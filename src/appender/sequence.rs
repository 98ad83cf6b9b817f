//! Batches that keep their order.

use std::sync::{Arc, OnceLock};

use crate::error::Error;
use crate::sync::{Mutex, MutexGuard};

/// Batches of one sequence are written in the order in which they were handed in. Once one of them is
/// not written, none of those behind it is: they come back as well.
#[derive(Debug, Clone)]
pub(crate) struct Sequence(Arc<Links>);

#[derive(Debug, Default)]
struct Links {
    broken: OnceLock<Broken>,
    aside: Mutex<Aside>,
}

/// How many of a sequence are set aside, and behind what.
#[derive(Debug, Default)]
struct Aside {
    count: usize,
    behind: u64,
}

/// Why a sequence ended.
#[derive(Debug)]
pub(super) enum Broken {
    Failed(Error),
    /// The task ended with its runtime.
    RuntimeEnded,
}

/// One of the sequence is set aside for as long as this lives.
#[derive(Debug)]
pub(super) struct SetAside(Sequence);

impl Sequence {
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.0.broken.get().is_some()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Tells it from all others that are there.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    /// The first reason counts.
    pub(super) fn end(&self, reason: Broken) {
        let _ = self.0.broken.set(reason);
    }

    pub(super) fn broken(&self) -> Option<&Broken> {
        self.0.broken.get()
    }

    /// Behind what some of it are set aside: those that come later go there, too.
    pub(super) fn is_behind(&self) -> Option<u64> {
        let aside = self.aside();
        (aside.count > 0).then_some(aside.behind)
    }

    pub(super) fn set_aside(&self, behind: u64) -> SetAside {
        let mut aside = self.aside();
        aside.count += 1;
        aside.behind = behind;
        SetAside(self.clone())
    }

    fn aside(&self) -> MutexGuard<'_, Aside> {
        self.0.aside.lock()
    }
}

impl Drop for SetAside {
    fn drop(&mut self) {
        self.0.aside().count -= 1;
    }
}
