//! Counts the calls that are under way, so that closing waits for them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::error::Result;
use crate::storage::group::closed;

#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    inside: usize,
}

/// Somebody inside.
#[derive(Debug)]
pub(super) struct Pass(Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) -> Result<Pass> {
        let mut state = self.state();
        if state.is_closed {
            return Err(closed());
        }
        state.inside += 1;
        Ok(Pass(self.clone()))
    }

    /// Whether somebody waits until all have left.
    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    /// Lets nobody in any more, and waits until all have left.
    pub(super) async fn close(&self) {
        self.state().is_closed = true;
        loop {
            let left = self.0.left.notified();
            if self.state().inside == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Pass {
    /// One more, for work that follows from this, even if it is closed by now.
    pub(super) fn another(&self) -> Self {
        self.0.state().inside += 1;
        Self(self.0.clone())
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.inside -= 1;
        if state.inside == 0 {
            self.0.0.left.notify_waiters();
        }
    }
}
