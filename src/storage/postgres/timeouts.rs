//! How long the client waits, where nothing else ends the wait.

use std::time::Duration;

use crate::clock::{SystemClock, sleep};

/// How long a call waits for a connection.
pub(super) const ACQUIRE: Duration = Duration::from_secs(5);
/// How long a connection that was idle has for its answer, when it is asked whether it still lives.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// The end of this work, if it comes in time. Sockets and servers take their time from the machine.
pub(super) async fn within<T>(time: Duration, work: impl Future<Output = T>) -> Option<T> {
    let clock = SystemClock::new();
    tokio::select! {
        done = work => Some(done),
        () = sleep(&clock, time) => None,
    }
}
