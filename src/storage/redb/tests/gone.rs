//! A file that is deleted, moved or replaced while it is open, and paths that lead to one file.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// Appends, which has to fail for good and write nothing; gives the text of the error.
async fn refused(storage: &RedbStorage) -> String {
    let error = storage.append(append(&["lost"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert!(!error.in_doubt());
    error.to_string()
}

/// Appends used to be answered with Ok, and went with the file when it was closed.
#[tokio::test]
async fn nothing_is_written_to_a_file_that_was_deleted() {
    let place = Place::new();
    let storage = place.storage().await;
    storage.append(append(&["a"])).await.unwrap();
    fs::remove_file(place.path()).unwrap();
    let text = refused(&storage).await;
    assert!(text.contains("was deleted while it was open"), "{text}");
    assert!(text.contains(place.path().to_str().unwrap()), "{text}");
    let group = group("billing");
    let created = storage.create_group(&group, Start::Latest).await;
    assert_eq!(created.unwrap_err().kind(), ErrorKind::Data);
    assert_eq!(bodies(&storage).await.unwrap(), ["a"]);

    // A new one is another storage.
    let new = place.storage().await;
    new.append(append(&["b"])).await.unwrap();
    refused(&storage).await;
    storage.close().await.unwrap();
    assert_eq!(bodies(&new).await.unwrap(), ["b"]);
}

#[tokio::test]
async fn nothing_is_written_to_a_file_whose_place_another_one_has() {
    let place = Place::new();
    let storage = place.storage().await;
    storage.append(append(&["a"])).await.unwrap();
    // Moved away it is still the same.
    let aside = place.directory.path().join("aside.redb");
    fs::rename(place.path(), &aside).unwrap();
    storage.append(append(&["b"])).await.unwrap();
    let new = place.storage().await;
    let text = refused(&storage).await;
    assert!(text.contains("is another one"), "{text}");
    new.append(append(&["c"])).await.unwrap();
    assert_eq!(bodies(&storage).await.unwrap(), ["a", "b"]);
    assert_eq!(bodies(&new).await.unwrap(), ["c"]);

    drop(new);
    fs::rename(&aside, place.path()).unwrap();
    storage.append(append(&["d"])).await.unwrap();
    assert_eq!(bodies(&storage).await.unwrap(), ["a", "b", "d"]);
}

/// After an error of the disk a storage used to go on in whatever file was there.
#[tokio::test]
async fn another_file_is_not_opened_anew_in_place_of_the_first() {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    storage.append(append(&["a"])).await.unwrap();
    let other = Place::new();
    drop(other.storage().await);
    let aside = place.directory.path().join("aside.redb");
    fs::rename(place.path(), &aside).unwrap();
    let content = fs::read(other.path()).unwrap();
    fs::write(place.path(), &content).unwrap();

    faults.fail_reads(0, u64::MAX);
    faults.fail(0, u64::MAX);
    let group = group("billing");
    storage.file.reopen(0).unwrap_err();
    faults.heal();
    let text = refused(&storage).await;
    assert!(text.contains("is another one"), "{text}");
    storage.observe(&[group]).await.unwrap_err();
    assert!(fs::read(place.path()).unwrap() == content, "it was touched");

    // Nor is none.
    fs::remove_file(place.path()).unwrap();
    let error = bodies(&storage).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("put it back"), "{error}");
    fs::rename(&aside, place.path()).unwrap();
    storage.append(append(&["b"])).await.unwrap();
    assert_eq!(bodies(&storage).await.unwrap(), ["a", "b"]);
}

/// An older state of a file is the same file to the system.
#[tokio::test]
async fn an_older_state_of_the_file_is_not_opened_anew() {
    let (place, faults) = Place::frail();
    let storage = place.storage().await;
    storage.close().await.unwrap();
    let old = fs::read(place.path()).unwrap();
    let storage = place.storage().await;
    storage.append(append(&["a"])).await.unwrap();
    faults.fail(0, u64::MAX);
    storage.file.reopen(0).unwrap_err();
    faults.heal();
    fs::write(place.path(), old).unwrap();
    let text = refused(&storage).await;
    assert!(text.contains("an older state"), "{text}");
}

#[tokio::test]
async fn a_file_is_open_by_whatever_name() {
    let place = Place::new();
    let storage = place.storage().await;
    let names = ["hard.redb", "soft.redb"].map(|name| place.directory.path().join(name));
    fs::hard_link(place.path(), &names[0]).unwrap();
    symlink(place.path(), &names[1]).unwrap();
    let options = || RedbOptions::new(Arc::new(place.clock.clone()));
    for name in &names {
        let error = RedbStorage::open(name, options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        let text = error.to_string();
        assert!(text.contains("is open already"), "{text}");
        assert!(text.contains(name.to_str().unwrap()), "{text}");
    }
    // The name that it was opened by is one of two.
    fs::remove_file(place.path()).unwrap();
    storage.append(append(&["a"])).await.unwrap();
    drop(storage);
    let storage = RedbStorage::open(&names[0], options()).await.unwrap();
    assert_eq!(bodies(&storage).await.unwrap(), ["a"]);
}

/// A link that another file was put behind is noticed as any other replacement.
#[tokio::test]
async fn a_link_is_followed_and_one_to_nothing_is_invalid() {
    let place = Place::new();
    let target = place.directory.path().join("elsewhere.redb");
    symlink("elsewhere.redb", place.path()).unwrap();
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let text = error.to_string();
    assert!(text.contains("a symbolic link to elsewhere.redb"), "{text}");
    assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 1);

    fs::write(&target, "").unwrap();
    let storage = place.storage().await;
    storage.append(append(&["a"])).await.unwrap();
    fs::remove_file(place.path()).unwrap();
    fs::write(place.directory.path().join("third.redb"), "").unwrap();
    symlink("third.redb", place.path()).unwrap();
    let text = refused(&storage).await;
    assert!(text.contains("is another one"), "{text}");

    // Nor one that leads to itself.
    fs::remove_file(place.path()).unwrap();
    symlink("orders.redb", place.path()).unwrap();
    drop(storage);
    let error = place.open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}
