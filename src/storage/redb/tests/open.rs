use std::fs;

use ::redb::{Database, TableDefinition};

use super::super::tables::{FORMAT, META};
use super::*;

async fn refusal(place: &Place) -> Error {
    let error = place.open().await.expect_err("it does not open");
    let text = error.to_string();
    assert!(text.contains(place.path().to_str().unwrap()), "{text}");
    error
}

#[tokio::test]
async fn a_second_open_is_refused() {
    let place = Place::new();
    let storage = place.open().await.unwrap();
    assert_eq!(refusal(&place).await.kind(), ErrorKind::Unavailable);
    drop(storage);
    place.open().await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_of_ours_is_refused_and_left_alone() {
    let place = Place::new();
    for content in [
        &b"x"[..],
        &[0; 10_000],
        b"redb",
        b"SQLite format 3\0 and more",
    ] {
        fs::write(place.path(), content).unwrap();
        assert_eq!(refusal(&place).await.kind(), ErrorKind::Data);
        assert_eq!(fs::read(place.path()).unwrap(), content);
    }
    fs::remove_file(place.path()).unwrap();

    let other: TableDefinition<'_, u64, u64> = TableDefinition::new("flowstream");
    let db = Database::create(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(other).unwrap().insert(1, 2).unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = refusal(&place).await;
    assert_eq!(error.kind(), ErrorKind::Data);
    assert!(error.to_string().contains("another application"), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_refused_with_its_version() {
    let place = Place::new();
    drop(place.open().await.unwrap());
    let db = Database::open(place.path()).unwrap();
    let txn = db.begin_write().unwrap();
    let newer = FORMAT.1 + 1;
    txn.open_table(META)
        .unwrap()
        .insert(FORMAT.0, newer)
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = refusal(&place).await;
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains(&format!("format {newer}")),
        "{error}"
    );
}

#[tokio::test]
async fn a_path_that_cannot_be_a_file_is_invalid() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    assert_eq!(refusal(&place).await.kind(), ErrorKind::Invalid);
    fs::remove_dir(place.path()).unwrap();
    fs::remove_dir(place.directory.path()).unwrap();
    assert_eq!(refusal(&place).await.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn an_empty_file_becomes_a_storage_and_no_draft_is_left() {
    let place = Place::new();
    fs::write(place.path(), "").unwrap();
    drop(place.open().await.unwrap());
    fs::remove_file(place.path()).unwrap();
    drop(place.open().await.unwrap());
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_making_that_was_killed_before_its_first_commit_goes_on() {
    let place = Place::new();
    drop(Database::create(place.path()).unwrap());
    place.storage().await;
}
