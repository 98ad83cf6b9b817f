//! Runtimes that end at any time under the embedded storage: what was answered is in the file, what
//! was not is there once or not at all, and the file can be opened again.
#![cfg(feature = "redb")]

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::{Delivery, Flowstream, Message, Options};
use futures::{SinkExt, TryStreamExt};
use support::*;
use tokio::runtime::{Builder, Runtime};

#[derive(Default)]
struct Promised {
    appended: Mutex<Vec<String>>,
    committed: Mutex<Vec<u64>>,
    /// Of both.
    count: AtomicUsize,
}

impl Promised {
    fn note<T>(&self, list: &Mutex<Vec<T>>, what: T) {
        list.lock().unwrap().push(what);
        self.count.fetch_add(1, Ordering::SeqCst);
    }
}

fn runtime(round: usize) -> Runtime {
    let mut builder = match round % 2 {
        0 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.worker_threads(2).enable_all().build().unwrap()
}

async fn open(url: &str) -> Flowstream {
    // The one before may still be closing the file.
    let options = Options::new().retry_for(Duration::from_secs(20));
    options.open(url).await.unwrap()
}

async fn work(flow: Flowstream, round: usize, promised: Arc<Promised>) {
    for number in 0..3 {
        let mut producer = flow.producer("orders").await.unwrap();
        let promised = promised.clone();
        tokio::spawn(async move {
            for sequence in 0.. {
                let text = format!("{round}-{number}-{sequence}");
                if producer.send(Message::new(text.clone())).await.is_err() {
                    return;
                }
                promised.note(&promised.appended, text);
            }
        });
    }
    let consumer = flow.consumer("orders", "billing").await.unwrap();
    tokio::spawn(async move {
        let commit = async |delivery: Delivery| {
            let offset = delivery.offset();
            delivery.commit().await?;
            promised.note(&promised.committed, offset);
            Ok(())
        };
        let _ = consumer.try_for_each_concurrent(8, commit).await;
    });
}

#[test]
fn a_runtime_that_ends_at_any_moment_keeps_what_was_promised() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("redb:{}/orders.redb", directory.path().display());
    let soak = std::env::var("FLOWSTREAM_SOAK").is_ok();
    let mut random = Random::new(1);
    let promised = Arc::<Promised>::default();
    let rounds = if soak { 600 } else { 24 };
    for round in 0..rounds {
        let runtime = runtime(round);
        let until = promised.count.load(Ordering::SeqCst) + random.below(30);
        runtime.block_on(async {
            let flow = open(&url).await;
            work(flow, round, promised.clone()).await;
            eventually("some promises", || {
                promised.count.load(Ordering::SeqCst) >= until
            })
            .await;
        });
        // The storage is held by tasks of this runtime only, which go with it.
        match random.below(3) {
            0 => drop(runtime),
            1 => runtime.shutdown_background(),
            _ => runtime.shutdown_timeout(Duration::from_secs(5)),
        }
    }
    let last = runtime(0);
    last.block_on(verify(&url, &promised));
    let (appended, committed) = (&promised.appended, &promised.committed);
    println!(
        "{rounds} runtimes ended: {} messages and {} commits were promised, and kept",
        appended.lock().unwrap().len(),
        committed.lock().unwrap().len()
    );
}

/// The file belongs to the process, and a call works on the runtime that it comes from.
#[test]
fn a_storage_is_used_from_two_runtimes_and_outlives_the_one_that_opened_it() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("redb:{}/orders.redb", directory.path().display());
    let (first, second) = (runtime(0), runtime(1));
    let flow = first.block_on(open(&url));
    let again = second.block_on(Options::new().retry_for(Duration::ZERO).open(&url));
    let refused = again.unwrap_err();
    assert_eq!(refused.kind(), flowstream::ErrorKind::Unavailable);
    assert!(refused.to_string().contains("in this one"), "{refused}");
    for runtime in [&first, &second] {
        runtime.block_on(async {
            let mut producer = flow.producer("orders").await.unwrap();
            producer.append(Message::new("a")).await.unwrap();
        });
    }
    drop(first);
    second.block_on(async {
        let mut producer = flow.producer("orders").await.unwrap();
        producer.append(Message::new("a")).await.unwrap();
        drop(producer);
        flow.close().await.unwrap();
        let flow = open(&url).await;
        assert_eq!(bodies(&flow, "orders", 0).await.len(), 3);
    });
}

async fn verify(url: &str, promised: &Promised) {
    let flow = open(url).await;
    let found = bodies(&flow, "orders", 0).await;
    let set: HashSet<&String> = found.iter().collect();
    assert_eq!(set.len(), found.len(), "nothing is doubled");
    for text in &*promised.appended.lock().unwrap() {
        assert!(set.contains(text), "{text} is lost");
    }
    let state = flow.group("orders", "billing").await.unwrap().remove(0);
    for offset in &*promised.committed.lock().unwrap() {
        assert!(
            state.progress.is_done(*offset),
            "the commit of {offset} is lost"
        );
    }
}
