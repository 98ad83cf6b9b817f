//! Time of a run: it passes only while nobody, on whatever runtime, has anything to do.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use flowstream::Clock;
use futures::future::BoxFuture;

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Time(Arc<Mutex<Timers>>);

#[derive(Debug, Default)]
struct Timers {
    now: Duration,
    /// Those who sleep, in the order in which they wake.
    sleepers: BTreeMap<Place, Waker>,
    count: u64,
}

/// Until when, and which of those who sleep until then.
type Place = (Duration, u64);

impl Time {
    pub(crate) fn sleep(&self, time: Duration) -> Sleep {
        self.until(self.now().saturating_add(time))
    }

    fn until(&self, deadline: Duration) -> Sleep {
        Sleep {
            time: self.clone(),
            deadline,
            place: None,
        }
    }

    /// Time passes until somebody wakes; says whether anybody sleeps at all.
    pub(crate) fn pass(&self) -> bool {
        let woken = {
            let mut timers = self.0.lock().unwrap();
            let Some((deadline, _)) = timers.sleepers.keys().next().copied() else {
                return false;
            };
            timers.now = timers.now.max(deadline);
            let later = timers.sleepers.split_off(&(deadline, u64::MAX));
            std::mem::replace(&mut timers.sleepers, later)
        };
        woken.into_values().for_each(Waker::wake);
        true
    }
}

impl Clock for Time {
    fn now(&self) -> Duration {
        self.0.lock().unwrap().now
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        Box::pin(self.until(deadline))
    }
}

pub(crate) struct Sleep {
    time: Time,
    deadline: Duration,
    /// Once it was polled.
    place: Option<Place>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let time = self.time.clone();
        let mut timers = time.0.lock().unwrap();
        if timers.now >= self.deadline {
            return Poll::Ready(());
        }
        let deadline = self.deadline;
        let place = *self.place.get_or_insert_with(|| {
            timers.count += 1;
            (deadline, timers.count)
        });
        timers.sleepers.insert(place, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let sleeper = self.time.0.lock().unwrap().sleepers.remove(&place);
            drop(sleeper);
        }
    }
}
