use futures::FutureExt;

use super::*;
use crate::storage::{Id, Ranges, Row};
use crate::{ErrorKind, ManualClock, Message};

fn storage(max_bytes: usize) -> MemoryStorage {
    let storage = MemoryStorage::new(Arc::new(ManualClock::new())).with_max_bytes(max_bytes);
    now(storage.create_stream(&name("orders"), Some(2))).unwrap();
    storage
}

fn now<T>(call: BoxFuture<'_, Result<T>>) -> Result<T> {
    call.now_or_never().expect("ready at the first poll")
}

fn name(name: &str) -> Name {
    Name::new(name).unwrap()
}

fn partition(index: u32) -> Partition {
    let stream = name("orders");
    Partition { stream, index }
}

fn group(index: u32, group: &str) -> Group {
    Group {
        partition: partition(index),
        name: name(group),
    }
}

/// An append of one message of 1,000 bytes.
fn kilobyte(index: u32) -> Arc<Append> {
    let records: super::super::RecordsBuilder =
        [&Message::new(vec![7; 1000])].into_iter().collect();
    Arc::new(Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: partition(index),
            records: records.build().unwrap(),
        }],
        commits: Vec::new(),
    })
}

fn lease(storage: &MemoryStorage, group: Group) -> Lease {
    let claim = Claim {
        group: group.clone(),
        owner: Id(1),
        over: None,
    };
    let epoch = now(storage.claim(claim)).unwrap().epoch;
    Lease {
        group,
        owner: Id(1),
        epoch,
    }
}

fn bounds(storage: &MemoryStorage, index: u32) -> Range<u64> {
    now(storage.bounds(&[partition(index)])).unwrap().remove(0)
}

#[test]
fn nothing_happens_before_the_first_poll() {
    let storage = storage(1 << 20);
    drop(storage.append(kilobyte(0)));
    assert_eq!(bounds(&storage, 0), 0..0);
}

#[test]
fn without_groups_the_oldest_batches_go() {
    let storage = storage(20_000);
    for _ in 0..100 {
        now(storage.append(kilobyte(0))).unwrap();
    }
    now(storage.append(kilobyte(1))).unwrap();
    let kept = bounds(&storage, 0);
    assert!(kept.start > 80 && kept.end == 100, "{kept:?}");
    for _ in 0..100 {
        now(storage.append(kilobyte(0))).unwrap();
    }
    assert_eq!(bounds(&storage, 1), 1..1, "the oldest of all partitions");
}

#[test]
fn what_a_group_has_not_done_stays() {
    let storage = storage(20_000);
    for group in [group(0, "slow"), group(0, "fast")] {
        now(storage.create_group(&group, Start::Earliest)).unwrap();
    }
    let full = loop {
        if let Err(error) = now(storage.append(kilobyte(0))) {
            break error;
        }
    };
    assert_eq!(full.kind(), ErrorKind::Unavailable);
    assert!(!full.in_doubt());
    assert!(full.to_string().contains("of orders/0"), "{full}");
    let end = bounds(&storage, 0).end;
    assert!(end > 10);
    let fast = lease(&storage, group(0, "fast"));
    now(storage.commit(&fast, &Verdicts::from(0..end))).unwrap();
    let full = now(storage.append(kilobyte(0))).unwrap_err();
    assert!(full.to_string().contains("group slow of"), "{full}");
    assert_eq!(
        bounds(&storage, 0),
        0..end,
        "nothing was dropped for nothing"
    );

    let slow = lease(&storage, group(0, "slow"));
    now(storage.commit(&slow, &Verdicts::from(0..3))).unwrap();
    now(storage.append(kilobyte(0))).unwrap();
    assert!((1..=3).contains(&bounds(&storage, 0).start));
}

#[test]
fn a_commit_that_goes_along_frees_the_room_it_needs_or_changes_nothing() {
    let storage = storage(20_000);
    now(storage.create_group(&group(0, "relay"), Start::Earliest)).unwrap();
    while now(storage.append(kilobyte(0))).is_ok() {}
    let relay = lease(&storage, group(0, "relay"));
    let with_commit = |done: Range<u64>, rows: usize| {
        let append = kilobyte(1);
        Arc::new(Append {
            id: append.id,
            after: None,
            rows: vec![append.rows[0].clone(); rows],
            commits: vec![(relay.clone(), Ranges::from(done))],
        })
    };
    let before = now(storage.observe(&[group(0, "relay")])).unwrap();
    let full = now(storage.append(with_commit(0..1, 5))).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Unavailable);
    assert_eq!(now(storage.observe(&[group(0, "relay")])).unwrap(), before);
    now(storage.append(with_commit(0..1, 1))).unwrap();
    assert_eq!(bounds(&storage, 0).start, 1);
}

#[test]
fn an_append_that_can_never_fit_is_invalid() {
    let storage = storage(500);
    let error = now(storage.append(kilobyte(0))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_closed_storage_says_so() {
    let storage = storage(1 << 20);
    let mut notifications = storage.notifications();
    now(storage.close()).unwrap();
    let error = now(storage.append(kilobyte(0))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let end = futures::StreamExt::next(&mut notifications).now_or_never();
    assert_eq!(end, Some(None));
    now(storage.close()).unwrap();
}

/// What a batch of one message of 1,000 bytes takes.
fn size_of_kilobyte() -> usize {
    log::batch_size(&kilobyte(0).rows[0].records)
}

#[test]
fn what_fits_exactly_is_accepted_and_drops_nothing() {
    let size = size_of_kilobyte();
    let storage = storage(size * 64);
    for _ in 0..64 {
        now(storage.append(kilobyte(0))).unwrap();
    }
    assert_eq!(bounds(&storage, 0), 0..64);
    // Room for it, and a sixteenth more.
    now(storage.append(kilobyte(0))).unwrap();
    assert_eq!(bounds(&storage, 0), 5..65);
    let tiny = self::storage(size);
    now(tiny.append(kilobyte(0))).unwrap();
    now(tiny.append(kilobyte(0))).unwrap();
    assert_eq!(bounds(&tiny, 0), 1..2);
}

#[test]
fn as_much_room_as_is_needed_is_enough() {
    let storage = storage(size_of_kilobyte() * 2);
    now(storage.create_group(&group(0, "slow"), Start::Earliest)).unwrap();
    for _ in 0..2 {
        now(storage.append(kilobyte(0))).unwrap();
    }
    let slow = lease(&storage, group(0, "slow"));
    now(storage.commit(&slow, &Verdicts::from(0..1))).unwrap();
    now(storage.append(kilobyte(0))).unwrap();
    assert_eq!(bounds(&storage, 0), 1..3);
}

#[test]
fn a_trim_gives_its_room_back() {
    let storage = storage(size_of_kilobyte() * 2);
    now(storage.create_group(&group(0, "slow"), Start::Earliest)).unwrap();
    for round in 0..5 {
        for _ in 0..2 {
            now(storage.append(kilobyte(0))).unwrap();
        }
        now(storage.trim(&partition(0), (round + 1) * 2)).unwrap();
    }
    assert_eq!(bounds(&storage, 0), 10..10);
}
