//! Panics of a storage's driver, as errors.

use std::any::Any;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::error::{Error, ErrorKind, Result};

/// Awaits a call of a storage. Where that panics, there is an error in doubt: nobody knows what it
/// had done by then.
pub(crate) async fn caught<T, F>(what: &str, call: impl FnOnce() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    match unwound(pin!(async { call().await })).await {
        Ok(answer) => answer,
        Err(panic) => Err(panicked(what, &*panic)),
    }
}

/// Polls a future to its end, or to a panic. It stays with the caller, since an `async fn` would keep it
/// twice: as its argument, and where it is polled.
pub(crate) async fn unwound<F: Future>(
    mut future: Pin<&mut F>,
) -> Result<F::Output, Box<dyn Any + Send>> {
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            // It is not polled again.
            Err(panic) => Poll::Ready(Err(panic)),
        },
    )
    .await
}

/// What was said of a panic, if that is text.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> Option<&str> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
}

fn panicked(what: &str, panic: &(dyn Any + Send)) -> Error {
    let text = text_of(panic).unwrap_or("with no text");
    let text = format!(
        "the driver of the storage panicked in {what}: {text}; a defect of it, which should be reported"
    );
    Error::new(ErrorKind::Internal, text).with_doubt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_in_doubt_before_and_while_it_is_polled() {
        let early = caught("append", || -> std::future::Ready<Result<()>> {
            panic!("early")
        });
        let late = caught("append", || async {
            tokio::task::yield_now().await;
            assert!(is_fine(), "{}", "late");
            Ok(())
        });
        let (early, late) = tokio::join!(early, late);
        for (answer, text) in [(early, "early"), (late, "late")] {
            let error = answer.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Internal);
            assert!(error.in_doubt() && error.to_string().contains(text));
        }
    }

    fn is_fine() -> bool {
        false
    }
}
