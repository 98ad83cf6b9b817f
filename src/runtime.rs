//! What this crate needs of the runtime that it is opened on.

use std::any::Any;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::panics::{text_of, unwound};

/// Opens a storage. Outside of a runtime, and on one where its timers or its sockets are off, that is an
/// error here, and no panic in some task later. Boxed, because what connects to a server is large, and would
/// be there once for each that awaits it.
pub(crate) async fn opening<T>(clock: &dyn Clock, open: BoxFuture<'_, Result<T>>) -> Result<T> {
    if Handle::try_current().is_err() {
        return Err(wrong("there is none here"));
    }
    let opening = async {
        // There is no way to ask whether timers are on but to make one.
        let mut timer = clock.sleep_until(clock.now());
        poll_fn(|cx| {
            let _ = timer.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
        open.await
    };
    match unwound(pin!(opening)).await {
        Ok(opened) => opened,
        Err(panic) => match switched_off(&*panic) {
            Some(what) => Err(wrong(what)),
            None => std::panic::resume_unwind(panic),
        },
    }
}

/// What a panic of tokio says is off.
fn switched_off(panic: &(dyn Any + Send)) -> Option<&'static str> {
    let text = text_of(panic)?;
    if text.contains("timers are disabled") {
        Some("time is off in this one")
    } else if text.contains("IO is disabled") {
        Some("I/O is off in this one")
    } else {
        None
    }
}

fn wrong(what: &str) -> Error {
    Error::invalid(format!(
        "flowstream needs a tokio runtime with time enabled, and for PostgreSQL with I/O, and {what}: \
         open the storage inside #[tokio::main], or on a runtime that was built with enable_all()"
    ))
}
