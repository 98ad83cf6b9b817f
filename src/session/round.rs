//! Those who wait for a write of commits.

use std::sync::OnceLock;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};
use crate::sync::Mutex;

/// One write of commits, and all who wait for it.
#[derive(Debug, Default)]
pub(crate) struct Round {
    result: OnceLock<Result<()>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Round {
    pub(crate) fn complete(&self, result: Result<()>) {
        // A round is completed once; a second result would be about another write.
        let _ = self.result.set(result);
        for waker in std::mem::take(&mut *self.waiting.lock()) {
            waker.wake();
        }
    }

    /// The outcome. `slot` is the place of the waker between polls.
    pub(crate) fn poll(&self, slot: &mut Option<usize>, cx: &Context<'_>) -> Poll<Result<()>> {
        if let Some(result) = self.outcome() {
            return Poll::Ready(result);
        }
        // Registered first, then looked at again: `complete` sets before it wakes.
        self.register(slot, cx.waker());
        self.outcome().map_or(Poll::Pending, Poll::Ready)
    }

    /// A waker is somebody else's code: it is cloned and dropped outside of the lock.
    fn register(&self, slot: &mut Option<usize>, waker: &Waker) {
        let known = |waiting: &[Waker]| {
            let known = slot.and_then(|at| waiting.get(at));
            known.is_some_and(|known| known.will_wake(waker))
        };
        if known(&self.waiting.lock()) {
            return;
        }
        let mut waker = waker.clone();
        let mut waiting = self.waiting.lock();
        match slot.and_then(|at| waiting.get_mut(at)) {
            Some(known) => std::mem::swap(known, &mut waker),
            None => {
                *slot = Some(waiting.len());
                waiting.push(waker);
                return;
            }
        }
        drop(waiting);
        drop(waker);
    }

    fn outcome(&self) -> Option<Result<()>> {
        Some(match self.result.get()? {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::share(error)),
        })
    }
}
