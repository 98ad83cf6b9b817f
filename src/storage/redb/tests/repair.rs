//! Files that were not closed: they are repaired as redb would do it, and read only once.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering::SeqCst;

use ::redb::Database;
use ::redb::backends::FileBackend;

use super::super::faults::Disk;
use super::super::repair;
use super::*;

/// A file with batches of all sizes, as a crash leaves it.
async fn crashed(place: &Place, has_quick_repair: bool) -> Vec<u8> {
    let options = place.options().quick_repair(has_quick_repair);
    let storage = RedbStorage::open(place.path(), options).await.unwrap();
    storage
        .create_stream(&name("orders"), Some(2))
        .await
        .unwrap();
    for number in 0..300_usize {
        let len = [10, 900, 3_000, 9_000, 60_000, 300_000][number % 6];
        let body = format!("{number} ").repeat(len / 4);
        storage.append(append(&[&body, "b"])).await.unwrap();
    }
    storage
        .create_group(&group("billing"), Start::Earliest)
        .await
        .unwrap();
    storage.trim(&partition(0), 100).await.unwrap();
    let file = fs::read(place.path()).unwrap();
    storage.close().await.unwrap();
    file
}

/// What redb makes of a file alone.
fn repaired_by_redb(path: &Path) -> Vec<u8> {
    let mut db = Database::builder()
        .set_cache_size(1 << 20)
        .open(path)
        .unwrap();
    assert!(db.check_integrity().unwrap());
    db.close().unwrap();
    fs::read(path).unwrap()
}

/// A disk that counts what is read of a file.
fn counting(path: &Path) -> (Disk, Arc<Faults>) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let faults = Arc::<Faults>::default();
    let disk = Disk {
        file: FileBackend::new(file.unwrap()).unwrap(),
        faults: faults.clone(),
    };
    (disk, faults)
}

/// Such a file used to be read twice.
#[tokio::test]
async fn a_file_that_was_not_closed_is_read_once() {
    let place = Place::swift();
    let file = crashed(&place, false).await;
    let mut read = Vec::new();
    for is_ours in [true, false] {
        fs::write(place.path(), &file).unwrap();
        let (disk, faults) = counting(&place.path());
        let mut builder = Database::builder();
        builder.set_cache_size(1 << 20);
        match is_ours {
            true => repair::repair(&mut builder, &place.path(), disk).unwrap(),
            false => builder.create_with_backend(disk).unwrap().close().unwrap(),
        }
        read.push(faults.read_bytes.load(SeqCst));
    }
    println!(
        "{} bytes: read {} instead of {}",
        file.len(),
        read[0],
        read[1]
    );
    assert!(read[0] < file.len() as u64);
    assert!(read[0] * 10 < read[1] * 6, "{read:?}");
}

/// Whatever is wrong with a file, redb has the last word.
#[tokio::test]
async fn a_file_that_was_not_closed_opens_with_all_that_is_in_it() {
    let place = Place {
        is_trusting: true,
        ..Place::swift()
    };
    let file = crashed(&place, false).await;
    fs::write(place.path(), &file).unwrap();
    let storage = place.open().await.unwrap();
    assert_eq!(bounds(&storage).await, 100..600);
    assert_eq!(bodies(&storage).await.unwrap().len(), 500);
    storage.append(append(&["c"])).await.unwrap();
    storage.close().await.unwrap();
    repaired_by_redb(&place.path());
}

#[tokio::test]
async fn it_becomes_what_redb_would_have_made_of_it() {
    let place = Place::swift();
    let file = crashed(&place, false).await;
    fs::write(place.path(), &file).unwrap();
    let mut builder = Database::builder();
    let disk = counting(&place.path()).0;
    repair::repair(builder.set_cache_size(1 << 20), &place.path(), disk).unwrap();
    let ours = fs::read(place.path()).unwrap();
    fs::write(place.path(), &file).unwrap();
    Database::builder()
        .set_cache_size(1 << 20)
        .open(place.path())
        .unwrap()
        .close()
        .unwrap();
    let theirs = fs::read(place.path()).unwrap();
    assert!(ours == theirs, "the files differ");
    assert!(ours != file);
    fs::write(place.path(), &ours).unwrap();
    repaired_by_redb(&place.path());
}

/// With quick repair a file opens without one.
#[tokio::test]
async fn with_quick_repair_there_is_nothing_to_repair() {
    let mut place = Place::swift();
    place.is_trusting = true;
    for has_quick_repair in [false, true] {
        let file = crashed(&place, has_quick_repair).await;
        fs::write(place.path(), &file).unwrap();
        let mut builder = Database::builder();
        builder.set_repair_callback(redb::RepairSession::abort);
        let opened = builder.open(place.path());
        match has_quick_repair {
            true => drop(opened.unwrap()),
            false => assert!(matches!(opened, Err(redb::DatabaseError::RepairAborted))),
        }
        fs::write(place.path(), &file).unwrap();
        let storage = place.open().await.unwrap();
        assert_eq!(bodies(&storage).await.unwrap().len(), 500);
        storage.close().await.unwrap();
        repaired_by_redb(&place.path());
        fs::remove_file(place.path()).unwrap();
    }
}

/// With quick repair there is nothing to repair after any other write of the storage than an append.
#[tokio::test]
async fn with_quick_repair_every_write_leaves_nothing_to_repair() {
    let place = Place::swift();
    let options = place.options().quick_repair(true);
    let storage = RedbStorage::open(place.path(), options).await.unwrap();
    let copy = place.directory.path().join("copy.redb");
    let check = || {
        storage.writer.rest();
        fs::copy(place.path(), &copy).unwrap();
        let mut builder = Database::builder();
        builder.set_repair_callback(redb::RepairSession::abort);
        drop(builder.open(&copy).unwrap());
    };
    check();
    storage.create_stream(&name("orders"), None).await.unwrap();
    check();
    let appends = (0..2_500).map(|_| storage.append(append(&["a"])));
    futures::future::try_join_all(appends).await.unwrap();
    storage.trim(&partition(0), 2_400).await.unwrap();
    check();
}

/// Minutes used to pass without a word.
#[tokio::test]
async fn a_trace_tells_how_far_it_is() {
    let place = Place::swift();
    let file = crashed(&place, false).await;
    fs::write(place.path(), &file).unwrap();
    let said = Arc::<Mutex<Vec<u8>>>::default();
    let writer = said.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || Said(writer.clone()))
        .finish();
    let disk = counting(&place.path()).0;
    tracing::subscriber::with_default(subscriber, || {
        repair::repair(&mut Database::builder(), &place.path(), disk).unwrap();
    });
    let said = String::from_utf8(said.lock().unwrap().clone()).unwrap();
    let path = place.path().display().to_string();
    assert!(said.lines().all(|line| line.contains(&path)), "{said}");
    for expected in [
        "WARN",
        "was not closed",
        "quick_repair",
        "percent=10",
        "percent=30",
        "is repaired",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
