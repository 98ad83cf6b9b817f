//! Hostile input at every public entry: names, messages, offsets, leases, handles, options, URLs, and
//! what others may have written into the database. Whatever it is, it is taken and comes back as it
//! went, or it is refused with an error that says why, nothing is written, and the next call works.
//!
//! `FLOWSTREAM_SOAK=minutes` goes on with other seeds.
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]

#[cfg(feature = "postgres")]
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
#[path = "../report/mod.rs"]
mod report;
#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "postgres")]
mod damage;
mod decoding;
mod driver;
mod large;
mod options;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "postgres")]
mod rows;
mod siege;
mod values;
mod verdicts;

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flowstream::{Flowstream, Options};
use siege::Siege;
use tempfile::TempDir;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts panics from now on, also those of tasks and threads that nobody waits for.
fn watch_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(info);
        }));
    });
}

fn assert_no_panics() {
    assert_eq!(PANICS.load(Ordering::SeqCst), 0, "something panicked");
}

/// A directory where nothing waits for a disk, if there is one.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap()
}

/// Refuses messages over the limit, and reports errors at once.
async fn open(url: &str) -> Flowstream {
    let options = Options::new().max_message_bytes(values::LIMIT);
    options.retry_for(Duration::ZERO).open(url).await.unwrap()
}

/// The seeds to run with: the first, and others for as long as it is to last.
fn seeds() -> impl Iterator<Item = u64> {
    let until = Instant::now() + report::soak().unwrap_or_default();
    (1..).take_while(move |seed| *seed == 1 || Instant::now() < until)
}

async fn besiege(url: &str, streams: usize, values: u64) {
    watch_panics();
    for seed in seeds() {
        let directory = directory();
        let url = url.replace("DIRECTORY", directory.path().to_str().unwrap());
        let mut siege = Siege::new(open(&url).await, seed, streams);
        siege.run(values).await;
        println!("{url}, seed {seed}: {}", siege.count);
        let count = siege.count;
        count.report();
        assert_eq!(count.tried, count.refused + count.accepted);
        assert!(count.refused > values / 10 && count.accepted > values / 10);
    }
    assert_no_panics();
}

#[tokio::test]
async fn whatever_comes_memory_takes_it_or_refuses_it() {
    besiege("memory:", 400, 100_000).await;
}

#[cfg(feature = "redb")]
#[tokio::test]
async fn whatever_comes_redb_takes_it_or_refuses_it() {
    besiege("redb:DIRECTORY/hostile.redb", 60, 100_000).await;
}
