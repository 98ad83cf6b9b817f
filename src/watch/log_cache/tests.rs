use std::time::{Duration, SystemTime};

use futures::FutureExt;

use super::*;
use crate::message::Message;
use crate::storage::RecordsBuilder;

/// Messages of ten bytes, appended at such a second.
fn batch(offsets: std::ops::Range<u64>, second: u64) -> StoredBatch {
    let messages = offsets.clone().map(|_| Message::new("ten bytes."));
    let messages: Vec<Message> = messages.collect();
    let records: RecordsBuilder = messages.iter().collect();
    StoredBatch {
        base_offset: offsets.start,
        appended_at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
        records: records.build().unwrap(),
    }
}

fn fetched(batches: &[StoredBatch], end: u64) -> Fetched {
    Fetched {
        batches: batches.to_vec(),
        bounds: 0..end,
        epoch: 1,
    }
}

fn empty(max_bytes: usize) -> Arc<LogCache> {
    let budget = Arc::new(CacheBudget::default());
    budget.allow(max_bytes);
    LogCache::new(budget)
}

/// Read up to offset 2, where the log ended.
fn cache() -> Arc<LogCache> {
    let cache = empty(1 << 20);
    cache.read(cache.mark(), 7, 0, &fetched(&[batch(0..2, 0)], 2));
    cache
}

fn offsets(cache: &LogCache, from: u64) -> Option<std::ops::Range<u64>> {
    match cache.next(7, from, usize::MAX) {
        Next::Batches(batches) => {
            let (first, last) = (batches.first().unwrap(), batches.last().unwrap());
            Some(first.base_offset..last.offsets().end)
        }
        Next::End => Some(from..from),
        Next::Elsewhere => None,
    }
}

#[test]
fn each_offset_is_found_in_its_batch() {
    for batches in 0..20 {
        let mut segment = Segment::default();
        (0..batches).for_each(|at| segment.push(batch(3 * at..3 * at + 3, 0)));
        for offset in 0..3 * batches {
            assert_eq!(segment.position(offset) as u64, offset / 3, "{batches}");
        }
        assert_eq!(segment.position(3 * batches) as u64, batches);
    }
}

#[test]
fn what_is_written_follows_what_was_read() {
    let cache = cache();
    cache.wrote(cache.mark(), batch(2..5, 1));
    cache.wrote(cache.mark(), batch(5..6, 2));
    assert_eq!(offsets(&cache, 0), Some(0..6));
    assert_eq!(offsets(&cache, 3), Some(2..6), "whole batches");
    assert_eq!(offsets(&cache, 6), Some(6..6));
    assert_eq!(offsets(&cache, 7), None, "it may be in the log already");
    assert_eq!(cache.next(8, 2, usize::MAX), Next::Elsewhere);
    let first = Next::Batches(vec![batch(2..5, 1)]);
    assert_eq!(cache.next(7, 2, 1), first, "no more than was asked");
}

#[test]
fn nothing_is_known_before_a_read() {
    let cache = empty(1 << 20);
    cache.wrote(cache.mark(), batch(0..1, 0));
    assert_eq!(offsets(&cache, 0), None);
    cache.read(cache.mark(), 7, 0, &fetched(&[], 0));
    cache.wrote(cache.mark(), batch(0..1, 0));
    assert_eq!(offsets(&cache, 0), Some(0..1));
}

#[test]
fn what_others_wrote_in_between_is_read() {
    let cache = cache();
    let late = cache.mark();
    cache.wrote(cache.mark(), batch(4..5, 2));
    assert_eq!(offsets(&cache, 2), Some(2..2), "no gap");
    cache.wrote(late, batch(2..4, 1));
    assert_eq!(offsets(&cache, 2), Some(2..4), "answered in another order");
    let both = [batch(2..4, 1), batch(4..5, 2)];
    cache.read(cache.mark(), 7, 2, &fetched(&both, 5));
    assert_eq!(offsets(&cache, 2), Some(2..5));
    cache.wrote(late, batch(4..5, 2));
    assert_eq!(offsets(&cache, 0), Some(0..5), "it was read before");
}

#[test]
fn it_is_bounded_in_bytes() {
    let cache = empty(3 * size(&batch(0..1, 0)));
    cache.read(cache.mark(), 7, 0, &fetched(&[], 0));
    for offset in 0..10 {
        cache.wrote(cache.mark(), batch(offset..offset + 1, offset));
    }
    assert_eq!(offsets(&cache, 6), None);
    assert_eq!(offsets(&cache, 7), Some(7..10));
    cache.wrote(cache.mark(), batch(10..100, 10));
    assert_eq!(offsets(&cache, 9), None);
    assert_eq!(offsets(&cache, 10), Some(10..100), "the newest in any case");
    assert_eq!(cache.budget.batches().bytes, size(&batch(10..100, 10)));
}

#[test]
fn what_is_kept_of_all_partitions_is_bounded_together() {
    let first = empty(3 * size(&batch(0..1, 0)));
    let second = LogCache::new(first.budget.clone());
    for cache in [&first, &second] {
        cache.read(cache.mark(), 7, 0, &fetched(&[], 0));
        for offset in 0..2 {
            cache.wrote(cache.mark(), batch(offset..offset + 1, offset));
        }
    }
    assert_eq!((offsets(&first, 0), offsets(&first, 1)), (None, Some(1..2)));
    assert_eq!(offsets(&second, 0), Some(0..2), "the oldest has gone");
    // One that nobody watches any more.
    drop(first);
    second.wrote(second.mark(), batch(2..3, 2));
    assert_eq!(offsets(&second, 0), Some(0..3));
}

#[test]
fn who_is_behind_changes_nothing_and_who_is_ahead_begins_anew() {
    let cache = cache();
    cache.wrote(cache.mark(), batch(2..3, 1));
    cache.read(cache.mark(), 7, 0, &fetched(&[batch(0..2, 0)], 3));
    assert_eq!(offsets(&cache, 0), Some(0..3));
    cache.read(cache.mark(), 7, 9, &fetched(&[batch(9..10, 3)], 10));
    assert_eq!(
        (offsets(&cache, 2), offsets(&cache, 9)),
        (None, Some(9..10))
    );
    cache.read(cache.mark(), 7, 50, &fetched(&[], 10));
    assert_eq!(offsets(&cache, 9), Some(9..10), "one that waits for 50");
}

#[test]
fn nothing_is_left_of_a_log_that_went_back() {
    // Other messages have taken the place of what was lost.
    let other = cache();
    other.wrote(other.mark(), batch(1..3, 9));
    assert_eq!(offsets(&other, 0), None);
    let other = cache();
    other.read(other.mark(), 7, 0, &fetched(&[batch(0..2, 9)], 2));
    let Next::Batches(batches) = other.next(7, 0, 1) else {
        panic!("what was read last");
    };
    assert_eq!(batches, [batch(0..2, 9)]);
    // It is shorter.
    let shorter = cache();
    shorter.read(shorter.mark(), 7, 1, &fetched(&[], 1));
    assert_eq!(
        (offsets(&shorter, 0), offsets(&shorter, 1)),
        (None, Some(1..1))
    );
    // Another incarnation.
    let promoted = cache();
    let before = promoted.mark();
    promoted.read(promoted.mark(), 8, 2, &fetched(&[], 2));
    assert_eq!(offsets(&promoted, 2), None, "for an owner of before");
    promoted.wrote(before, batch(2..3, 1));
    assert_eq!(promoted.next(8, 2, 1), Next::End, "written before");
}

#[test]
fn a_read_that_began_before_a_write_takes_nothing_back() {
    let cache = cache();
    let before = cache.mark();
    cache.wrote(cache.mark(), batch(2..3, 1));
    cache.read(before, 7, 2, &fetched(&[], 2));
    assert_eq!(offsets(&cache, 0), Some(0..3));
}

#[test]
fn a_turn_that_is_dropped_goes_to_the_next() {
    let cache = cache();
    let permit = cache.permit().now_or_never().unwrap();
    let (mut gone, mut next) = (Box::pin(cache.permit()), Box::pin(cache.permit()));
    assert!((&mut gone).now_or_never().is_none());
    assert!((&mut next).now_or_never().is_none());
    drop(gone);
    drop(permit);
    assert!(next.now_or_never().is_some());
}
