//! Where the crate takes its time from.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_core::future::BoxFuture;
use tokio::sync::watch;

/// A source of time: the machine's, or a test's.
///
/// Leases, retries and timers run on [`now`](Clock::now), which never goes back. The wall clock is
/// only written beside messages and shown; no promise rests on it.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Monotonic time since a fixed moment that the clock chooses.
    fn now(&self) -> Duration;

    /// The wall clock.
    fn wall(&self) -> SystemTime;

    /// Resolves once [`now`](Clock::now) has reached `deadline`; never, if the clock cannot.
    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}

/// The machine's clocks, with tokio's timers. The default.
#[derive(Debug, Clone)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

impl SystemClock {
    /// A clock that starts now.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let deadline = self.origin.checked_add(deadline);
        Box::pin(async move {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// A clock that stands still until a test moves it.
///
/// Tokio's paused time fires every deadline while a thread or a socket works; this one does not, so
/// it serves every storage. Clones share the time.
#[derive(Debug, Clone)]
pub struct ManualClock {
    elapsed: Arc<watch::Sender<Duration>>,
}

impl ManualClock {
    /// A clock that stands at zero; its wall clock starts at the Unix epoch plus one day, and ends
    /// with the last time that the machine can tell.
    pub fn new() -> Self {
        Self {
            elapsed: Arc::new(watch::Sender::new(Duration::ZERO)),
        }
    }

    /// Lets `duration` pass, and wakes whoever slept for it.
    pub fn advance(&self, duration: Duration) {
        self.elapsed
            .send_modify(|elapsed| *elapsed = elapsed.saturating_add(duration));
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.elapsed.borrow()
    }

    fn wall(&self) -> SystemTime {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400);
        saturating_add(start, self.now())
    }

    fn sleep_until(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let mut elapsed = self.elapsed.subscribe();
        Box::pin(async move {
            if elapsed.wait_for(|now| *now >= deadline).await.is_err() {
                // The clock is gone: its time never comes.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// The time so long after another, or the last one that the machine can tell.
fn saturating_add(time: SystemTime, duration: Duration) -> SystemTime {
    if let Some(sum) = time.checked_add(duration) {
        return sum;
    }
    // The standard library does not say which is the last: it is found by halves.
    let (mut last, mut step) = (time, duration);
    while !step.is_zero() {
        last = last.checked_add(step).unwrap_or(last);
        step /= 2;
    }
    last
}

/// So long from now.
pub(crate) async fn sleep(clock: &dyn Clock, duration: Duration) {
    clock
        .sleep_until(clock.now().saturating_add(duration))
        .await;
}

/// Microseconds since the Unix epoch, negative before it; the ends of the range for what lies
/// outside of it.
pub(crate) fn to_micros(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
    }
}

/// The time that [`to_micros`] gave.
pub(crate) fn from_micros(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    let time = if micros < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its wall clock used to panic once more time had passed than the machine can tell.
    #[test]
    fn a_clock_that_went_as_far_as_it_goes_still_tells_the_time() {
        let clock = ManualClock::new();
        let start = clock.wall();
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.wall(), start + Duration::from_secs(1));
        clock.advance(Duration::MAX);
        let last = clock.wall();
        assert!(last > start + Duration::from_secs(1));
        assert_eq!(
            last.checked_add(Duration::from_nanos(1_000)),
            None,
            "it is the last"
        );
        clock.advance(Duration::from_secs(1));
        assert_eq!((clock.now(), clock.wall()), (Duration::MAX, last));
        // A year that is far away stays one that can be written.
        assert_eq!(to_micros(last), i64::MAX);
    }
}
