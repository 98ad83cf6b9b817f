//! Files of redb.

use std::path::Path;
use std::time::Duration;

use flowstream::{Flowstream, Options, Result};

use crate::listing::Listing;
use crate::{calls, refused};

async fn open(path: &Path) -> Result<Flowstream> {
    let options = Options::new().retry_for(Duration::ZERO);
    options.open(&format!("redb:{}", path.display())).await
}

#[tokio::test]
async fn files() {
    let mut listing = Listing::new("Files of redb");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    listing.name(directory.path().display().to_string(), "DIR");
    listing.refused("a directory", open(directory.path()).await);
    listing.refused(
        "in a directory that is not there",
        open(&at("no/orders.redb")).await,
    );
    std::fs::write(at("text.redb"), "no database").unwrap();
    listing.refused("another file", open(&at("text.redb")).await);

    let path = at("orders.redb");
    let flow = open(&path).await.unwrap();
    listing.refused("a file that is open already", open(&path).await);
    flow.producer("orders").await.unwrap();
    flow.close().await.unwrap();
    let look = flow.bounds("orders").await;
    listing.refused("a look after Flowstream::close", look);

    let file = std::fs::read(&path).unwrap();
    std::fs::write(at("half.redb"), &file[..file.len() / 2]).unwrap();
    listing.refused("half of a file", open(&at("half.redb")).await);
    let mut damaged = file.clone();
    damaged[..64].fill(7);
    std::fs::write(at("head.redb"), damaged).unwrap();
    listing.refused("a damaged first page", open(&at("head.redb")).await);

    let definition = redb::TableDefinition::<u64, u64>::new("theirs");
    let db = redb::Database::create(at("theirs.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(definition).unwrap().insert(1, 1).unwrap();
    txn.commit().unwrap();
    drop(db);
    listing.refused(
        "a file of another application",
        open(&at("theirs.redb")).await,
    );

    let definition = redb::TableDefinition::<&str, &[u8]>::new("streams");
    std::fs::copy(&path, at("row.redb")).unwrap();
    let db = redb::Database::open(at("row.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    let row: &[u8] = b"hunter2";
    txn.open_table(definition)
        .unwrap()
        .insert("orders", row)
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let flow = open(&at("row.redb")).await;
    let opened = match flow {
        Ok(flow) => flow.bounds("orders").await.map(drop),
        Err(error) => Err(error),
    };
    listing.refused("a row that is damaged", opened);

    let definition = redb::TableDefinition::<&str, u64>::new("flowstream");
    let db = redb::Database::open(&path).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(definition)
        .unwrap()
        .insert("format", 99)
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    listing.refused("a file of a newer version", open(&path).await);
    listing.compare();
}

#[tokio::test]
async fn streams_in_files() {
    let mut listing = Listing::new("Streams and groups in files");
    let directory = tempfile::tempdir().unwrap();
    let flow = open(&directory.path().join("orders.redb")).await.unwrap();
    calls::streams(&mut listing, &flow).await;
    listing.compare();
}

/// One that is called outside of a runtime says so, and nothing panics.
#[test]
fn calls_outside_of_a_runtime() {
    let mut listing = Listing::new("Calls of redb outside of a runtime");
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.unwrap();
    let flow = runtime
        .block_on(open(&directory.path().join("x.redb")))
        .unwrap();
    let created = futures::executor::block_on(flow.create_stream("orders", 1));
    listing.add("create_stream", &refused(created));
    let read = futures::executor::block_on(flow.read("orders", 0, 0));
    listing.add("read", &refused(read));
    listing.compare();
}
