use std::time::SystemTime;

use futures::FutureExt;
use futures::future::{join_all, try_join_all};

use super::super::error::Fail;
use super::*;
use crate::storage::shared::ids::REMEMBERED;

#[tokio::test]
async fn the_owner_of_an_earlier_open_is_dead() {
    let place = Place::new();
    let storage = place.storage().await;
    let group = group("billing");
    storage.create_group(&group, Start::Earliest).await.unwrap();
    let state = storage.claim(claim(group.clone(), 1, None)).await.unwrap();
    assert_eq!(state.liveness, Liveness::Unknown);
    drop(storage);

    let storage = place.open().await.unwrap();
    let groups = [group.clone()];
    let seen = storage.observe(&groups).await.unwrap().remove(0).unwrap();
    assert_eq!((seen.liveness, seen.owner), (Liveness::Dead, Some(Id(1))));
    let refused = storage.claim(claim(group.clone(), 2, None)).await.unwrap();
    assert_eq!(refused, seen, "it has to be named");
    let over = Some((seen.epoch, seen.generation));
    let taken = storage.claim(claim(group, 2, over)).await.unwrap();
    assert_eq!(
        (taken.owner, taken.liveness),
        (Some(Id(2)), Liveness::Unknown)
    );
    assert_eq!(taken.epoch, 2);
}

#[tokio::test]
async fn who_writes_after_this_open_is_alive() {
    let place = Place::new();
    let storage = place.storage().await;
    let group = group("billing");
    storage.create_group(&group, Start::Earliest).await.unwrap();
    let epoch = storage
        .claim(claim(group.clone(), 1, None))
        .await
        .unwrap()
        .epoch;
    storage.close().await.unwrap();
    let storage = place.open().await.unwrap();
    let lease = Lease {
        group: group.clone(),
        owner: Id(1),
        epoch,
    };
    storage.commit(&lease, &Verdicts::default()).await.unwrap();
    let seen = storage.observe(&[group]).await.unwrap().remove(0).unwrap();
    assert_eq!(seen.liveness, Liveness::Unknown);
}

/// A batch in doubt that nobody can tell about any more must not be taken for one that is absent.
#[tokio::test]
async fn that_ids_were_let_go_of_outlives_the_process() {
    let place = Place::new();
    let storage = place.storage().await;
    let numbered = |id| {
        let mut append = Arc::try_unwrap(append(&["a"])).unwrap();
        append.id = Id(id);
        storage.append(Arc::new(append))
    };
    numbered(1).await.unwrap();
    // Just so many that old ones are deleted, and no more are there than are remembered.
    let last = 2 * REMEMBERED as u128;
    try_join_all((2..=last).map(numbered)).await.unwrap();
    let told = storage.settle(Id(1), &[]).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::OutOfRange);
    storage.close().await.unwrap();

    let storage = place.open().await.unwrap();
    let told = storage.settle(Id(1), &[]).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::OutOfRange);
    assert!(storage.settle(Id(last), &[]).await.unwrap().is_some());
    assert_eq!(storage.settle(Id(last + 1), &[]).await.unwrap(), None);
}

#[tokio::test]
async fn ids_and_refusals_outlive_the_process() {
    let place = Place::new();
    let storage = place.storage().await;
    let (written, refused) = (append(&["a"]), append(&["b"]));
    storage.append(written.clone()).await.unwrap();
    assert_eq!(storage.settle(refused.id, &[]).await.unwrap(), None);
    // Enough to have the oldest deleted once.
    let many: Vec<_> = (0..9000).map(|_| append(&["x"])).collect();
    try_join_all(many.iter().map(|append| storage.append(append.clone())))
        .await
        .unwrap();
    drop(storage);

    let storage = place.open().await.unwrap();
    for (index, append) in many.iter().enumerate().skip(9000 - 4096) {
        let base = 1 + index as u64;
        let again = storage.append(append.clone()).await.unwrap();
        assert_eq!(again.bases(), Some(vec![base]));
        if index % 512 == 0 {
            let settled = storage.settle(append.id, &[]).await.unwrap();
            assert_eq!(settled, Some(vec![base]));
        }
    }
    assert_eq!(storage.append(refused).await.unwrap(), Appended::Refused);
    assert_eq!(bounds(&storage).await, 0..9001);
}

#[tokio::test]
async fn an_emptied_log_goes_on_where_it_was() {
    let place = Place::new();
    let storage = place.storage().await;
    for _ in 0..3 {
        storage.append(append(&["a", "b"])).await.unwrap();
    }
    assert_eq!(storage.trim(&partition(0), 3).await.unwrap(), 2);
    assert_eq!(bodies(&storage).await.unwrap().len(), 4);
    assert_eq!(storage.trim(&partition(0), u64::MAX).await.unwrap(), 6);
    assert_eq!(storage.trim(&partition(0), 1).await.unwrap(), 6);
    drop(storage);
    let storage = place.open().await.unwrap();
    assert_eq!(bounds(&storage).await, 6..6);
    assert!(bodies(&storage).await.unwrap().is_empty());
    let appended = storage.append(append(&["c"])).await.unwrap();
    assert_eq!(appended.bases(), Some(vec![6]));
    assert_eq!(bodies(&storage).await.unwrap(), ["c"]);
    assert_eq!(storage.trim(&partition(0), 6).await.unwrap(), 6);
    assert_eq!(bodies(&storage).await.unwrap(), ["c"]);
}

#[tokio::test]
async fn a_group_starts_at_a_time() {
    let place = Place::new();
    let storage = place.storage().await;
    let mut times: Vec<SystemTime> = Vec::new();
    for _ in 0..7 {
        place.clock.advance(Duration::from_millis(10));
        times.push(crate::Clock::wall(&place.clock));
        storage.append(append(&["a", "b", "c"])).await.unwrap();
    }
    for (index, time) in times.iter().enumerate() {
        for (early, expected) in [(0, 3 * index as u64), (1, 3 * index as u64)] {
            let group = group(&format!("{index}-{early}"));
            let start = Start::Time(*time - Duration::from_millis(early));
            storage.create_group(&group, start).await.unwrap();
            let state = storage.observe(&[group]).await.unwrap().remove(0).unwrap();
            assert_eq!(state.progress.position(), expected);
        }
    }
    let late = group("late");
    let start = Start::Time(times[6] + Duration::from_millis(1));
    storage.create_group(&late, start).await.unwrap();
    let state = storage.observe(&[late]).await.unwrap().remove(0).unwrap();
    assert_eq!(state.progress.position(), 21);
}

#[test]
fn what_waits_is_one_commit() {
    let (place, faults) = Place::frail();
    let syncs = || faults.syncs.load(std::sync::atomic::Ordering::SeqCst);
    let setup = Runtime::new().unwrap();
    let storage = setup.block_on(place.storage());
    let before = syncs();
    setup.block_on(storage.append(append(&["a"]))).unwrap();
    let of_one = syncs() - before;

    // Twice, because the file grows now and then, with a sync more.
    let of_hundred = [1, 101].map(|first| {
        storage.writer.rest();
        let (runtime, busy) = busy_runtime();
        let before = syncs();
        runtime.block_on(async {
            let calls = (0..100).map(|_| started(storage.append(append(&["a"]))));
            let calls = join_all(calls).await;
            drop(busy);
            try_join_all(calls).await.unwrap();
        });
        assert_eq!(setup.block_on(bounds(&storage)), 0..first + 100);
        syncs() - before
    });
    assert!(of_hundred.contains(&of_one), "{of_hundred:?}");
}

#[tokio::test]
async fn what_changes_nothing_is_not_committed() {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    let before = faults.syncs.load(std::sync::atomic::Ordering::SeqCst);
    storage.create_stream(&name("orders"), None).await.unwrap();
    storage.trim(&partition(0), 9).await.unwrap();
    let after = faults.syncs.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(before, after);
}

#[test]
fn an_operation_that_breaks_off_does_not_harm_the_others() {
    let place = Place::new();
    let setup = Runtime::new().unwrap();
    let storage = setup.block_on(place.storage());
    storage.writer.rest();
    let (runtime, busy) = busy_runtime();
    let (first, last) = (append(&["first"]), append(&["last"]));
    runtime.block_on(async {
        let first = started(storage.append(first)).await;
        let damaged = started(Box::pin(storage.writer.write(None, |txn| {
            txn.append(&append(&["half"]))?.unwrap();
            Err::<Result<()>, _>(Fail::Damaged("this".to_owned()))
        })))
        .await;
        let panicking = started(Box::pin(storage.writer.write(None, |txn| -> Answer<()> {
            txn.append(&append(&["half"]))?.unwrap();
            panic!("on purpose");
        })))
        .await;
        let last = started(storage.append(last)).await;
        drop(busy);
        assert_eq!(first.await.unwrap().bases(), Some(vec![0]));
        let error = damaged.await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Data && !error.in_doubt(),
            "{error}"
        );
        let error = panicking.await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Data && !error.in_doubt(),
            "{error}"
        );
        assert_eq!(last.await.unwrap().bases(), Some(vec![1]));
        assert_eq!(bodies(&storage).await.unwrap(), ["first", "last"]);
    });
}

#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let place = Place::new();
    let other = Runtime::new().unwrap();
    let storage = other.block_on(place.storage());
    storage.writer.rest();
    let runtime = Runtime::new().unwrap();
    let (begun, has_begun) = mpsc::channel::<()>();
    let (busy, until) = mpsc::channel::<()>();
    let running = runtime.block_on(started(Box::pin(storage.writer.write(None, move |_| {
        begun.send(()).unwrap();
        let _ = until.recv();
        Ok(Ok(()))
    }))));
    has_begun.recv().unwrap();
    let behind = other.block_on(started(storage.append(append(&["a"]))));
    let dead = runtime.handle().clone();
    runtime.shutdown_background();
    drop(busy);
    other.block_on(running).unwrap();
    let error = other.block_on(behind).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.in_doubt(), "{error}");
    let on_dead = {
        let _entered = dead.enter();
        storage.append(append(&["b"])).now_or_never()
    };
    let error = on_dead.expect("it is over").unwrap_err();
    assert!(error.is_transient() && !error.in_doubt(), "{error}");
    other.block_on(storage.append(append(&["c"]))).unwrap();
    assert_eq!(other.block_on(bodies(&storage)).unwrap(), ["c"]);
}

#[test]
fn outside_of_a_runtime_is_an_error() {
    let place = Place::new();
    let storage = Runtime::new().unwrap().block_on(place.storage());
    let error = storage
        .append(append(&["a"]))
        .now_or_never()
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn a_call_works_from_its_first_poll_on() {
    let place = Place::new();
    let storage = place.storage().await;
    let mut notifications = storage.notifications();
    drop(storage.append(append(&["never"])));
    drop(started(storage.append(append(&["dropped"]))).await);
    let next = futures::StreamExt::next(&mut notifications).await;
    assert_eq!(next, Some(Notification::Appended(partition(0), 1)));
    assert_eq!(bodies(&storage).await.unwrap(), ["dropped"]);
}

#[tokio::test]
async fn close_waits_for_what_is_queued() {
    let place = Place::new();
    let storage = place.storage().await;
    let mut notifications = storage.notifications();
    let waiting: Vec<_> = (0..20)
        .map(|_| started(storage.append(append(&["a"]))))
        .collect();
    let waiting = join_all(waiting).await;
    storage.close().await.unwrap();
    let reopened = place.open().await.unwrap();
    assert_eq!(bounds(&reopened).await, 0..20);
    try_join_all(waiting).await.unwrap();
    for error in [
        storage.append(append(&["b"])).await.unwrap_err(),
        storage.bounds(&[partition(0)]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed);
    }
    storage.close().await.unwrap();
    while futures::StreamExt::next(&mut notifications).await.is_some() {}
}

#[tokio::test]
async fn a_dropped_storage_finishes_what_is_under_way() {
    let place = Place::new();
    let storage = place.storage().await;
    let mut notifications = storage.notifications();
    drop(started(storage.append(append(&["a"]))).await);
    drop(storage);
    while futures::StreamExt::next(&mut notifications).await.is_some() {}
    // If the job had not begun, it closes the file itself, after the notifications end.
    let storage = loop {
        match place.open().await {
            Ok(storage) => break storage,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(bodies(&storage).await.unwrap(), ["a"]);
}
