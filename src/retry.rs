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
    /// Calls until it succeeds, fails for good, or the budget has run out. The pauses double. An
    /// error is in doubt if any of the attempts was.
    pub(crate) async fn run<T, F>(self, clock: &dyn Clock, mut call: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut error = match call().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let deadline = clock.now().saturating_add(self.budget);
        let mut pause = FIRST_PAUSE;
        let mut in_doubt = false;
        loop {
            in_doubt |= error.in_doubt();
            let next = clock.now() + pause;
            if !error.is_transient() || next >= deadline {
                return Err(if in_doubt { error.with_doubt() } else { error });
            }
            tracing::debug!(%error, ?pause, "trying again");
            clock.sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            error = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
        }
    }
}
