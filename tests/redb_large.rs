//! What a large file of the embedded storage costs: to open it after kill -9, with and without quick
//! repair; what quick repair costs an append; and for how long others wait while it is trimmed. It takes
//! minutes and prints what it measured:
//!
//! ```text
//! FLOWSTREAM_LARGE=3000 cargo test --release --test redb_large -- --ignored --nocapture
//! ```
//!
//! The number is the size of the file in MiB.
#![cfg(all(unix, feature = "redb"))]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flowstream::storage::{
    Append, Id, Name, Partition, RecordsBuilder, RedbOptions, RedbStorage, Row, Storage,
};
use flowstream::{Message, SystemClock};
use futures::future::try_join_all;

const CHILD: &str = "FLOWSTREAM_LARGE_CHILD";

fn mebibytes() -> u64 {
    std::env::var("FLOWSTREAM_LARGE").map_or(300, |size| size.parse().unwrap())
}

fn partition() -> Partition {
    let stream = Name::new("log").unwrap();
    Partition { stream, index: 0 }
}

async fn open(path: &Path, has_quick_repair: bool) -> RedbStorage {
    let options = RedbOptions::new(Arc::new(SystemClock::new())).quick_repair(has_quick_repair);
    let storage = RedbStorage::open(path, options).await.unwrap();
    storage
        .create_stream(&partition().stream, Some(1))
        .await
        .unwrap();
    storage
}

/// A batch of so many messages of 100 bytes, different each time.
async fn append(storage: &RedbStorage, messages: u64) -> flowstream::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let first = NUMBER.fetch_add(messages, Ordering::Relaxed);
    let messages: Vec<_> = (first..first + messages)
        .map(|number| Message::new(format!("{number:>100}")))
        .collect();
    let records = messages.iter().collect::<RecordsBuilder>().build().unwrap();
    let row = Row {
        partition: partition(),
        records,
    };
    let append = Append {
        id: Id::random(),
        after: None,
        rows: vec![row],
        commits: vec![],
    };
    storage.append(Arc::new(append)).await.map(drop)
}

/// About a MiB a transaction.
async fn fill(storage: &RedbStorage, messages: u64, bytes: u64) {
    let together = ((1 << 20) / (messages * 100)).max(1);
    for _ in 0..bytes / (together * messages * 100) {
        let appends = (0..together).map(|_| append(storage, messages));
        try_join_all(appends).await.unwrap();
    }
}

/// A file of a process that was killed while it wrote.
fn crash(path: &Path, messages: u64, has_quick_repair: bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env(CHILD, path)
        .env("FLOWSTREAM_LARGE_BATCH", messages.to_string())
        .env("FLOWSTREAM_LARGE_QUICK", has_quick_repair.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().ends_with("full")),
        "it never fills"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Not a test: what the others run and kill.
#[tokio::test]
#[ignore = "the others run it"]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let of = |name: &str| std::env::var(format!("FLOWSTREAM_LARGE_{name}")).unwrap();
    let messages = of("BATCH").parse().unwrap();
    let storage = open(Path::new(&path), of("QUICK") == "true").await;
    fill(&storage, messages, mebibytes() << 20).await;
    println!("full");
    // Until it is killed.
    fill(&storage, messages, u64::MAX).await;
}

/// Nothing of it is in the memory of the system any more, if this process may ask for that.
fn forget() -> bool {
    Command::new("sync").status().unwrap();
    std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn opening_after_a_crash() {
    for (messages, has_quick_repair) in [(1_000, false), (10, false), (1_000, true)] {
        let directory = tempfile::tempdir().unwrap();
        let (path, copy) = ["a", "b"].map(|name| directory.path().join(name)).into();
        crash(&path, messages, has_quick_repair);
        std::fs::copy(&path, &copy).unwrap();
        let bytes = std::fs::metadata(&path).unwrap().len();
        println!("{messages} messages a batch, quick repair {has_quick_repair}, {bytes} bytes");
        for (path, is_cold) in [(&path, false), (&copy, true)] {
            if is_cold && !forget() {
                continue;
            }
            let began = Instant::now();
            let storage = open(path, has_quick_repair).await;
            println!(
                "  opened after a crash, cold {is_cold}: {:?}",
                began.elapsed()
            );
            storage.close().await.unwrap();
        }
        forget();
        let began = Instant::now();
        open(&path, has_quick_repair).await.close().await.unwrap();
        println!("  opened after it was closed: {:?}", began.elapsed());
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn appending_with_quick_repair() {
    let directory = tempfile::tempdir().unwrap();
    for size in [8, mebibytes()] {
        let mut storages = Vec::new();
        for quick in [false, true] {
            let storage = open(&directory.path().join(format!("{size} {quick}")), quick).await;
            fill(&storage, 10_000, size << 20).await;
            storages.push(storage);
        }
        for messages in [1, 100, 1_000] {
            let mut ratios = Vec::new();
            let mut rates = [Vec::new(), Vec::new()];
            for _ in 0..9 {
                for (storage, rates) in storages.iter().zip(&mut rates) {
                    let (began, mut count) = (Instant::now(), 0);
                    while began.elapsed() < Duration::from_millis(300) {
                        append(storage, messages).await.unwrap();
                        count += 1;
                    }
                    rates.push(f64::from(count) / began.elapsed().as_secs_f64());
                }
                let [plain, quick] = [0, 1].map(|which: usize| *rates[which].last().unwrap());
                ratios.push(quick / plain);
            }
            let [plain, quick] = rates.map(median);
            println!(
                "file of {size} MiB, appends of {messages}: {plain:.0} a second, {quick:.0} with \
                 quick repair, ratio {:.2}",
                median(ratios)
            );
        }
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn appending_while_it_is_trimmed() {
    for messages in [1_000, 10] {
        let directory = tempfile::tempdir().unwrap();
        let storage = Arc::new(open(&directory.path().join("log"), false).await);
        fill(&storage, messages, mebibytes() << 19).await;
        let trim = {
            let storage = storage.clone();
            tokio::spawn(async move {
                let began = Instant::now();
                storage.trim(&partition(), u64::MAX).await.unwrap();
                began.elapsed()
            })
        };
        let mut waits = Vec::new();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            let sent = Instant::now();
            append(&storage, 1).await.unwrap();
            waits.push(sent.elapsed());
        }
        let trimmed = trim.await.unwrap();
        waits.sort();
        println!(
            "{} MiB in batches of {messages} trimmed in {trimmed:?}; of {} appends meanwhile one took \
             {:?} at most, {:?} the median",
            mebibytes() / 2,
            waits.len(),
            waits.last().unwrap(),
            waits[waits.len() / 2],
        );
    }
}
