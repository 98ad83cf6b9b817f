//! Ending on the server what nobody waits for any more.
//!
//! A session of ours has a `statement_timeout`, and so has each message through a pooler. In a session
//! of the application's pool there is no place for one: set inside a statement, even by a function
//! that it calls, it counts from the next statement on. So a call past its deadline is cancelled from
//! beside.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::value::Value;
use crate::clock::sleep;

/// Cancels what a statement that is late still does, in the background. Its connection is closed by
/// now, so nothing else can run there.
pub(super) fn cancel(core: Arc<Core>) {
    tokio::spawn(async move {
        // It may have come to the server later than it left.
        for pause in [100, 1_000, 10_000] {
            sleep(&core.clock, Duration::from_millis(pause)).await;
            let deadline = i64::try_from(core.deadline.as_micros()).unwrap_or(i64::MAX);
            let values = [Value::Text(&core.sql.mark), Value::Bigint(deadline)];
            match core.run_once(&core.aside, &core.sql.cancel, &values).await {
                Ok(cancelled) if cancelled.is_empty() => {}
                Ok(_) => return tracing::debug!("a statement past its deadline was cancelled"),
                Err(fail) => {
                    tracing::debug!(code = fail.code(), "a statement past its deadline goes on")
                }
            }
        }
    });
}
