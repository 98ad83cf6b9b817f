//! Taking turns with other tasks.

use std::future::poll_fn;
use std::task::Poll;

/// Goes behind the tasks that are ready. `yield_now` would also have the runtime look for I/O first,
/// a system call that takes longer than a commit in memory.
pub(crate) async fn step_back() {
    let mut is_behind = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut is_behind, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
