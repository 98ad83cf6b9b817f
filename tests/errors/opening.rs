//! URLs and runtimes.

use std::sync::Arc;

use flowstream::storage::MemoryStorage;
use flowstream::{ManualClock, Options};
use tokio::runtime::Builder;

use crate::listing::Listing;

/// What newcomers write. A text that repeated it would show what is secret in it: once the password of
/// `open("host=db … password=…")` came out, and of `user:password@host`.
#[tokio::test]
async fn urls() {
    let mut listing = Listing::new("URLs");
    for url in [
        "",
        "orders.redb",
        "./orders.redb",
        "memory",
        "memory:hunter2",
        "postgres",
        "mysql://secret_role:hunter2@db/shop",
        "kafka://db:9092",
        "secret_role:hunter2@db/shop",
        "hunter2@db:5432/shop",
        "host=db user=secret_role password=hunter2",
        "host=db user=secret_role password=hun:hunter2",
        "password=hunter2://x",
    ] {
        let shown = url.replace("hunter2", "*").replace("secret_role", "*");
        let opened = flowstream::open(url).await;
        listing.refused(&format!("open({shown:?})"), opened);
    }
    listing.compare();
}

#[cfg(feature = "redb")]
#[tokio::test]
async fn urls_of_files() {
    let mut listing = Listing::new("URLs of files");
    for url in [
        "redb:",
        "redb://orders.redb",
        "redb:///var/lib/orders.redb",
        "redb::memory:",
        "redb:orders.redb?cache=1",
        "redb: orders.redb",
        "redb:orders/",
    ] {
        listing.refused(&format!("open({url:?})"), flowstream::open(url).await);
    }
    listing.compare();
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn urls_of_servers() {
    let mut listing = Listing::new("URLs of servers");
    for url in [
        "postgres:shop?sslmode=hunter2",
        "postgres://secret_role:hunter2@127.0.0.1:port/shop",
        "postgres://secret_role:hunter2/3@127.0.0.1:5432/shop",
        "postgres://secret_role:hunter2@127.0.0.1:5432/shop?sslmode=hunter2",
        "postgres://secret_role:hunter2#1@127.0.0.1/shop",
    ] {
        let shown = url.replace("hunter2", "*").replace("secret_role", "*");
        let opened = Options::new().retry_for(std::time::Duration::ZERO);
        listing.refused(&format!("open({shown:?})"), opened.open(url).await);
    }
    listing.compare();
}

#[cfg(not(feature = "postgres"))]
#[tokio::test]
async fn the_feature_postgres_is_off() {
    let mut listing = Listing::new("Without the feature postgres");
    let opened = flowstream::open("postgres://localhost/shop").await;
    listing.refused("open(\"postgres://…\")", opened);
    listing.compare();
}

#[cfg(not(feature = "redb"))]
#[tokio::test]
async fn the_feature_redb_is_off() {
    let mut listing = Listing::new("Without the feature redb");
    listing.refused("open(\"redb:…\")", flowstream::open("redb:x").await);
    listing.compare();
}

/// Once, redb panicked outside of a runtime, and without timers a task panicked later, after which the
/// storage was said to be closed.
#[cfg(all(feature = "redb", feature = "postgres"))]
#[test]
fn runtimes() {
    let mut listing = Listing::new("Runtimes");
    let directory = tempfile::tempdir().unwrap();
    let redb = format!("redb:{}", directory.path().join("x.redb").display());
    let postgres = "postgres://secret_role:hunter2@127.0.0.1:1/x";
    for (shown, url) in [
        ("memory:", "memory:"),
        ("redb:…", &redb),
        ("postgres://…", postgres),
    ] {
        let opened = futures::executor::block_on(flowstream::open(url));
        listing.refused(&format!("open({shown:?}) outside of a runtime"), opened);
        let bare = Builder::new_current_thread().build().unwrap();
        let opened = bare.block_on(flowstream::open(url));
        listing.refused(&format!("open({shown:?}) on one without timers"), opened);
    }
    let timed = Builder::new_current_thread().enable_time().build().unwrap();
    let opened = timed.block_on(flowstream::open(postgres));
    listing.refused("open(\"postgres://…\") on one without I/O", opened);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    listing.compare();
}

/// Who brings time along needs none of the runtime's.
#[test]
fn a_clock_of_ones_own_needs_no_timers() {
    let clock = ManualClock::new();
    let bare = Builder::new_current_thread().build().unwrap();
    bare.block_on(async {
        let flow = Options::new().clock(clock.clone()).open("memory:").await;
        flow.unwrap().producer("orders").await.map(drop)
    })
    .unwrap();
    let storage = Arc::new(MemoryStorage::new(Arc::new(clock.clone())));
    let flow = Options::new().clock(clock).open_storage(storage);
    bare.block_on(async { flow.producer("orders").await.map(drop) })
        .unwrap();
}
