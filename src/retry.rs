//! Trying again what may succeed later.

use std::time::Duration;

use crate::clock::Clock;
use crate::error::Result;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// For how long a call is tried again while its errors are transient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetryPolicy {
    pub(crate) budget: Duration,
}

impl RetryPolicy {
    /// When the budget is over of what is called now.
    pub(crate) fn deadline(self, clock: &dyn Clock) -> Duration {
        clock.now().saturating_add(self.budget)
    }

    /// Calls until it succeeds, fails for good, or the budget has run out, which counts from now. An
    /// error is in doubt if any of the attempts was.
    pub(crate) async fn run<T, F>(self, clock: &dyn Clock, call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        until(self.deadline(clock), clock, call).await
    }
}

/// Calls until it succeeds, fails for good, or another attempt would begin behind the deadline. One
/// that takes long does not fail by that. An error is in doubt if any of the attempts was.
pub(crate) async fn until<T, F>(
    deadline: Duration,
    clock: &dyn Clock,
    mut call: impl FnMut() -> F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut pauses = Pauses::default();
    let mut in_doubt = false;
    loop {
        let error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        in_doubt |= error.in_doubt();
        let next = clock.now().saturating_add(pauses.next());
        if !error.is_transient() || next >= deadline {
            return Err(if in_doubt { error.with_doubt() } else { error });
        }
        tracing::debug!(%error, ?next, "trying again");
        clock.sleep_until(next).await;
    }
}

/// How long to wait between attempts: twice as long each time.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST_PAUSE)
    }
}

impl Pauses {
    pub(crate) fn next(&mut self) -> Duration {
        let longer = (self.0 * 2).min(LONGEST_PAUSE);
        std::mem::replace(&mut self.0, longer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::error::{Error, ErrorKind};

    #[tokio::test]
    async fn a_budget_begins_with_the_call() {
        let clock = ManualClock::new();
        let budget = Duration::from_secs(30);
        let mut attempts = 0;
        let slow = RetryPolicy { budget }.run(&clock, || {
            attempts += 1;
            clock.advance(budget);
            std::future::ready(Err::<(), _>(Error::new(ErrorKind::Unavailable, "away")))
        });
        slow.await.unwrap_err();
        assert_eq!(attempts, 1, "the first has taken all of it");
    }
}
