//! Deleting what was trimmed away, piece by piece.

use std::fs;
use std::sync::atomic::Ordering::SeqCst;

use ::redb::{ReadableTable, ReadableTableMetadata};
use futures::future::try_join_all;

use super::super::delete::DeleteBudget;
use super::super::sweep::sweep;
use super::super::tables::{APPENDS, BATCHES, SWEEPS};
use super::*;
use crate::storage::shared::ids::REMEMBERED;

/// So many batches of one message.
async fn fill(storage: &RedbStorage, count: usize) {
    let appends = (0..count).map(|_| storage.append(append(&["a"])));
    try_join_all(appends).await.unwrap();
}

/// While it is held, nothing is deleted but what goes with a write, or what the test asks for.
fn hold(storage: &RedbStorage, is_held: bool) {
    let set = storage
        .file
        .with_open(|opened| opened.has_failed_sweep.store(is_held, SeqCst));
    set.unwrap();
}

/// How many batches and ids the file has, and how many logs that are to be swept.
fn rows(storage: &RedbStorage) -> [u64; 3] {
    let count = |txn: &ReadTransaction| {
        let batches = txn.open_table(BATCHES)?.len()?;
        let ids = txn.open_table(APPENDS)?.len()?;
        Ok(Ok([batches, ids, txn.open_table(SWEEPS)?.len()?]))
    };
    storage.file.snapshot(count).unwrap()
}

/// A trim used to be one transaction, for which every write waited: eight seconds for 1.5 GB.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_trim_is_many_transactions() {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    fill(&storage, 5_500).await;
    storage.writer.rest();
    let before = faults.syncs.load(SeqCst);
    assert_eq!(storage.trim(&partition(0), 5_500).await.unwrap(), 5_500);
    storage.writer.rest();
    let syncs = faults.syncs.load(SeqCst) - before;
    assert!(syncs >= 6, "{syncs} syncs for 5,500 batches");
    let left = storage
        .file
        .snapshot(|txn| Ok(Ok(txn.open_table(BATCHES)?.len()?)));
    assert_eq!(left.unwrap(), 1, "the newest stays");
}

#[tokio::test]
async fn others_write_between_two_pieces() {
    let place = Place::swift();
    let storage = place.storage().await;
    fill(&storage, 3_500).await;
    hold(&storage, true);
    assert_eq!(storage.trim(&partition(0), 3_500).await.unwrap(), 3_500);
    assert_eq!(bounds(&storage).await, 3_500..3_500);
    assert_eq!(rows(&storage), [2_500, 3_500, 1]);
    let appended = storage.append(append(&["b"])).await.unwrap();
    assert_eq!(appended.bases(), Some(vec![3_500]));
    // Once more, while the first is not over.
    fill(&storage, 3).await;
    assert_eq!(storage.trim(&partition(0), 3_502).await.unwrap(), 3_502);
    storage.writer.rest();
    hold(&storage, false);
    let mut left = rows(&storage)[0];
    while sweep(&storage.file) {
        let now = rows(&storage)[0];
        assert!(left - now <= DeleteBudget::MAX_ROWS as u64, "{left} {now}");
        left = now;
        assert_eq!(bodies(&storage).await.unwrap(), ["a", "a"]);
    }
    assert_eq!(rows(&storage), [2, 3_504, 0]);
    assert_eq!(bounds(&storage).await, 3_502..3_504);
}

#[tokio::test]
async fn a_piece_has_so_many_bytes() {
    let place = Place::swift();
    let storage = place.storage().await;
    let large = "x".repeat(3 << 20);
    for _ in 0..7 {
        storage.append(append(&[&large])).await.unwrap();
    }
    hold(&storage, true);
    storage.trim(&partition(0), 7).await.unwrap();
    storage.writer.rest();
    let mut left = vec![rows(&storage)[0]];
    hold(&storage, false);
    while left.last() != Some(&1) || rows(&storage)[2] > 0 {
        sweep(&storage.file);
        left.push(rows(&storage)[0]);
    }
    assert_eq!(
        left,
        [5, 3, 1, 1],
        "two a piece, and then the messages of the newest"
    );
    let size = |txn: &ReadTransaction| {
        let newest = txn
            .open_table(BATCHES)?
            .last()?
            .map(|(_, value)| value.value().len());
        Ok(Ok(newest))
    };
    assert!(storage.file.snapshot(size).unwrap().unwrap() < 100);
    assert_eq!(bounds(&storage).await, 7..7);
}

/// A crash, or an end of the process, between two pieces.
#[tokio::test]
async fn what_is_left_is_deleted_after_the_file_was_opened_again() {
    let place = Place::swift();
    let storage = place.storage().await;
    fill(&storage, 2_500).await;
    hold(&storage, true);
    storage.trim(&partition(0), 2_400).await.unwrap();
    let crashed = fs::read(place.path()).unwrap();
    drop(storage);
    fs::write(place.path(), crashed).unwrap();

    let storage = place.open().await.unwrap();
    assert_eq!(bounds(&storage).await, 2_400..2_500);
    assert_eq!(rows(&storage), [1_500, 2_500, 1]);
    assert_eq!(bodies(&storage).await.unwrap().len(), 100);
    storage.append(append(&["b"])).await.unwrap();
    storage.writer.rest();
    assert_eq!(rows(&storage), [101, 2_501, 0]);
    assert_eq!(bounds(&storage).await, 2_400..2_501);
    // And what was emptied tells where the log goes on.
    storage.trim(&partition(0), 2_501).await.unwrap();
    storage.writer.rest();
    drop(storage);
    let storage = place.open().await.unwrap();
    assert_eq!(rows(&storage), [1, 2_501, 0]);
    assert_eq!(bounds(&storage).await, 2_501..2_501);
}

/// Old ids used to be deleted with an append: the ids of 4,096 statements, whatever those had.
#[tokio::test]
async fn old_ids_go_in_pieces_as_well() {
    let place = Place::swift();
    let storage = place.storage().await;
    hold(&storage, true);
    fill(&storage, 2 * REMEMBERED + 10).await;
    let all = 2 * REMEMBERED as u64 + 10;
    storage.writer.rest();
    assert_eq!(rows(&storage)[1], all);
    hold(&storage, false);
    sweep(&storage.file);
    assert_eq!(rows(&storage)[1], all - DeleteBudget::MAX_ROWS as u64);
    drop(storage);
    let storage = place.open().await.unwrap();
    fill(&storage, REMEMBERED).await;
    storage.writer.rest();
    let left = rows(&storage)[1];
    assert!(
        (REMEMBERED as u64..2 * REMEMBERED as u64).contains(&left),
        "{left}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_that_is_dropped_lets_go_of_the_file_though_there_is_more_to_delete() {
    let place = Place::swift();
    for round in 1..=8 {
        let storage = place.storage().await;
        fill(&storage, 2_500).await;
        let end = 2_500 * round;
        assert_eq!(storage.trim(&partition(0), end).await.unwrap(), end);
        match round % 2 {
            0 => drop(storage),
            _ => storage.close().await.unwrap(),
        }
    }
    let storage = place.open().await.unwrap();
    assert_eq!(bounds(&storage).await, 20_000..20_000);
}

/// Where a log cannot be swept, all else goes on.
#[tokio::test]
async fn what_cannot_be_deleted_stays_and_is_in_nobodys_way() {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    fill(&storage, 2_500).await;
    hold(&storage, true);
    storage.trim(&partition(0), 2_400).await.unwrap();
    storage.writer.rest();
    hold(&storage, false);
    faults.fail(0, u64::MAX);
    assert!(!sweep(&storage.file));
    faults.heal();
    storage.append(append(&["b"])).await.unwrap();
    storage.writer.rest();
    assert_eq!(rows(&storage), [101, 2_501, 0]);
}
