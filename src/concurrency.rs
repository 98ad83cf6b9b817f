//! One call for each of many, some of them at once.

use std::future::poll_fn;
use std::ops::Range;
use std::pin::Pin;
use std::task::Poll;

use crate::error::Result;

/// So many calls of one kind are under way at once: enough for a storage that gathers them, and few enough
/// that those who wait for a connection get one soon, and what else goes on does not wait long behind them.
pub(crate) const MAX_CONCURRENT: usize = 64;

/// Makes these calls, so many at once at most, and gives their answers in order. The first error ends it:
/// what is under way then is let go of.
pub(crate) async fn join_bounded<T, F>(
    at_once: usize,
    calls: impl IntoIterator<Item = F>,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<T>>,
{
    let mut calls = calls.into_iter();
    let mut answers: Vec<Option<T>> = Vec::new();
    let mut under_way: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    poll_fn(|cx| {
        loop {
            while under_way.len() < at_once
                && let Some(call) = calls.next()
            {
                under_way.push((answers.len(), Box::pin(call)));
                answers.push(None);
            }
            if under_way.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (before, mut at) = (under_way.len(), 0);
            while let Some((number, call)) = under_way.get_mut(at) {
                match call.as_mut().poll(cx) {
                    Poll::Pending => at += 1,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(answer)) => {
                        answers[*number] = Some(answer);
                        under_way.swap_remove(at);
                    }
                }
            }
            if under_way.len() == before {
                return Poll::Pending;
            }
        }
    })
    .await?;
    Ok(answers.into_iter().flatten().collect())
}

/// Parts of so many things, which are asked about together: all of them at first, and where that fails
/// because of one of them, each half, and so on. In order.
#[derive(Debug)]
pub(crate) struct Bisection(Vec<Range<usize>>);

impl Bisection {
    pub(crate) fn of(count: usize) -> Self {
        let all = 0..count;
        Self(vec![all])
    }

    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.0.pop()
    }

    /// It failed because of one in this part. Whether its halves come next: it is that one otherwise.
    pub(crate) fn split(&mut self, part: &Range<usize>) -> bool {
        if part.len() < 2 {
            return false;
        }
        let middle = part.start + part.len() / 2;
        self.0.extend([middle..part.end, part.start..middle]);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::Error;

    #[tokio::test]
    async fn so_many_are_under_way_and_answers_are_in_order() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let call = async |number: usize| {
            let under_way = now.fetch_add(1, Ordering::Relaxed) + 1;
            most.fetch_max(under_way, Ordering::Relaxed);
            // Those behind it are done first.
            for _ in 0..100 - number {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, Ordering::Relaxed);
            Ok(number)
        };
        let answers = join_bounded(7, (0..100).map(call)).await.unwrap();
        assert_eq!(answers, Vec::from_iter(0..100));
        assert_eq!(most.into_inner(), 7);
    }

    #[tokio::test]
    async fn the_first_error_ends_it() {
        let begun = AtomicUsize::new(0);
        let call = async |number: usize| {
            begun.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            match number {
                3 => Err(Error::closed("over")),
                _ => Ok(()),
            }
        };
        assert!(join_bounded(2, (0..100).map(call)).await.is_err());
        assert!(begun.into_inner() <= 6);
    }

    /// Each of them was asked about by itself.
    #[test]
    fn what_is_wrong_with_one_is_found_by_halves() {
        let (mut next, mut asked, mut wrong) = (0, 0, Vec::new());
        let mut parts = Bisection::of(1_000);
        while let Some(part) = parts.next() {
            asked += 1;
            assert_eq!(part.start, next);
            let is_wrong = part.contains(&700);
            if is_wrong && parts.split(&part) {
                continue;
            }
            next = part.end;
            wrong.extend(is_wrong.then_some(part));
        }
        assert_eq!((next, wrong.len(), wrong.pop()), (1_000, 1, Some(700..701)));
        assert!(asked <= 21, "{asked}");
    }
}
