//! A call that is stopped at a moment of the test's choice, so that whoever waits for it can come to harm
//! just then.

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use flowstream::Result;
use futures::future::BoxFuture;
use tokio::sync::Notify;

use super::Faulty;

/// Where a call is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Moment {
    /// It never arrives.
    Before,
    /// It is applied, and nobody is told.
    After,
    /// It is under way, and is applied when it [lands](Faulty::land).
    Late,
}

pub(crate) const MOMENTS: [Moment; 3] = [Moment::Before, Moment::After, Moment::Late];

/// The calls that are stopped.
#[derive(Default)]
pub(super) struct Catch {
    gate: Notify,
    caught: AtomicUsize,
    panics: AtomicBool,
    under_way: Mutex<Vec<BoxFuture<'static, ()>>>,
}

impl Catch {
    /// In the task of whoever waits for the call, so that a panic or the end of the runtime hits that one.
    pub(super) async fn stop<T: Send>(
        &self,
        moment: Moment,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) {
        match moment {
            Moment::Before => drop(work),
            Moment::After => drop(work.await),
            Moment::Late => {
                let landing = Box::pin(async { drop(work.await) });
                self.under_way.lock().unwrap().push(landing);
            }
        }
        self.caught.fetch_add(1, Ordering::SeqCst);
        self.gate.notified().await;
        assert!(!self.panics.load(Ordering::SeqCst), "the driver panics");
    }
}

impl Faulty {
    /// How many calls were stopped so far.
    pub(crate) fn caught(&self) -> usize {
        self.0.catch.caught.load(Ordering::SeqCst)
    }

    /// The driver panics in what is stopped.
    pub(crate) fn strike(&self) {
        self.0.catch.panics.store(true, Ordering::SeqCst);
        self.0.catch.gate.notify_waiters();
    }

    /// What is stopped is answered, as unavailable and in doubt.
    pub(crate) fn spare(&self) {
        self.0.catch.gate.notify_waiters();
    }

    /// What was under way is applied now.
    pub(crate) async fn land(&self) {
        let under_way = std::mem::take(&mut *self.0.catch.under_way.lock().unwrap());
        for landing in under_way {
            landing.await;
        }
    }
}
