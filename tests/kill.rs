//! kill -9, again and again: what was acknowledged is in the file, once and in order, and what was
//! committed is delivered no more.
//!
//! The test runs itself as a child that produces and consumes, and says on its standard output
//! what it was promised. `FLOWSTREAM_SOAK=minutes` makes it long.
#![cfg(all(unix, feature = "redb"))]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowstream::{Delivery, Flowstream, Message, Result};
use futures::{SinkExt, TryStreamExt};

const CHILD: &str = "FLOWSTREAM_KILL_CHILD";
const PRODUCERS: u64 = 4;

#[test]
fn what_was_promised_survives_kill_9() {
    let soak = std::env::var("FLOWSTREAM_SOAK").map_or(0, |minutes| minutes.parse().unwrap());
    let (began, rounds) = (Instant::now(), 30);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kill.redb");
    let mut seen = Seen::default();
    let mut round = 0;
    while round < rounds || began.elapsed() < Duration::from_secs(60 * soak) {
        run_and_kill(&path, round, &mut seen);
        round += 1;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let url = format!("redb:{}", path.display());
    runtime.block_on(verify(&url, &mut seen)).unwrap();
    println!(
        "kill -9: {round} rounds, {} messages acked, {} in the log, {} committed, {} delivered \
         more than once (none of them committed); lost 0, gaps 0, doubled 0",
        seen.acked.len(),
        seen.stored,
        seen.committed.len(),
        seen.again,
    );
}

/// What the children said.
#[derive(Default)]
struct Seen {
    acked: HashSet<String>,
    delivered: HashMap<u64, u32>,
    committed: HashSet<u64>,
    again: usize,
    stored: u64,
}

fn run_and_kill(path: &std::path::Path, round: u64, seen: &mut Seen) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, path)
        .env("FLOWSTREAM_KILL_ROUND", round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // Some rounds end in the middle of opening, some after a while.
    let after = 1 + (round * 7919) % 1500;
    let mut heard = 0;
    let mut killed = false;
    for line in lines {
        let line = line.unwrap();
        let Some((what, which)) = line.split_once(' ') else {
            continue;
        };
        match what {
            "acked" => assert!(seen.acked.insert(which.to_owned()), "acked twice: {which}"),
            "delivered" => {
                let offset = which.parse().unwrap();
                assert!(
                    !seen.committed.contains(&offset),
                    "{offset} was committed before"
                );
                *seen.delivered.entry(offset).or_default() += 1;
            }
            "committed" => {
                seen.committed.insert(which.parse().unwrap());
            }
            _ => continue,
        }
        heard += 1;
        if heard == after && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child of round {round} ended by itself");
}

async fn verify(url: &str, seen: &mut Seen) -> Result<()> {
    let flow = flowstream::open(url).await?;
    let bounds = flow.bounds("log").await?[0].clone();
    assert_eq!(bounds.start, 0);
    seen.stored = bounds.end;
    let mut found = HashSet::new();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut next = 0;
    while next < bounds.end {
        for (offset, message) in flow.read("log", 0, next).await? {
            assert_eq!(offset, next, "a gap");
            next += 1;
            let text = String::from_utf8_lossy(message.body()).into_owned();
            let (producer, sequence) = text.rsplit_once('-').unwrap();
            let sequence: u64 = sequence.parse().unwrap();
            if let Some(before) = last.insert(producer.to_owned(), sequence) {
                assert!(before < sequence, "{producer}: {sequence} after {before}");
            }
            assert!(found.insert(text.clone()), "doubled: {text}");
        }
    }
    let lost: Vec<_> = seen.acked.difference(&found).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");

    // The group gets exactly what was not committed; the last children may have committed more
    // than they could say.
    let mut consumer = flow.consumer("log", "group").await?;
    let state = flow.group("log", "group").await?.remove(0);
    let left: u64 = bounds.end - state.progress.position() - state.progress.acked().count();
    for _ in 0..left {
        let delivery = consumer.try_next().await?.unwrap();
        let offset = delivery.offset();
        assert!(!seen.committed.contains(&offset), "{offset} was committed");
        *seen.delivered.entry(offset).or_default() += 1;
        delivery.ack();
    }
    seen.again = seen.delivered.values().filter(|times| **times > 1).count();
    consumer.control().shutdown().await;
    let state = flow.group("log", "group").await?.remove(0);
    assert_eq!(
        state.progress,
        flowstream::storage::Progress::at(bounds.end)
    );
    Ok(())
}

/// Not a test: what the parent runs and kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(path) = std::env::var(CHILD) else {
        return;
    };
    let round = std::env::var("FLOWSTREAM_KILL_ROUND").unwrap();
    let flow = flowstream::open(&format!("redb:{path}")).await.unwrap();
    for producer in 0..PRODUCERS {
        let name = format!("{round}-{producer}");
        tokio::spawn(produce(flow.clone(), name, producer));
    }
    consume(flow).await.unwrap();
}

/// One message at a time, or a few with one flush, or a few with one append.
async fn produce(flow: Flowstream, name: String, style: u64) -> Result<()> {
    let mut producer = flow.producer("log").await?;
    for group in 0.. {
        let size = if style == 0 { 1 } else { 7 };
        let texts: Vec<String> = (0..size)
            .map(|i| format!("{name}-{}", group * size + i))
            .collect();
        if style == 1 {
            let messages: Vec<Message> = texts.iter().cloned().map(Message::from).collect();
            producer.append(messages).await?;
        } else {
            for text in &texts {
                producer.feed(text.clone().into()).await?;
            }
            SinkExt::<Message>::flush(&mut producer).await?;
        }
        for text in texts {
            println!("acked {text}");
        }
    }
    Ok(())
}

/// Commits out of order; one in five is let go of, and comes again later.
async fn consume(flow: Flowstream) -> Result<()> {
    let consumer = flow
        .consumer("log", "group")
        .redeliver_after(Duration::from_millis(20))
        .await?;
    consumer
        .map_ok(|delivery: Delivery| async move {
            let offset = delivery.offset();
            println!("delivered {offset}");
            if offset.is_multiple_of(5) && delivery.attempt() == 1 {
                return Ok(());
            }
            delivery.commit().await?;
            println!("committed {offset}");
            Ok(())
        })
        .try_buffer_unordered(16)
        .try_for_each(|()| async { Ok(()) })
        .await
}
