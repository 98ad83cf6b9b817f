//! URLs and options.

use std::time::Duration;

use flowstream::{ErrorKind, Flowstream, ManualClock, Message, Options, Result};

use crate::support::{Random, next, soon};
use crate::values::{duration, number, text};
use crate::{assert_no_panics, directory, seeds, watch_panics};

/// A URL that is wrong, or names what is not there. No host but this one is asked for.
fn url(random: &mut Random, directory: &str) -> String {
    let text = text(random);
    match random.below(9) {
        0 => text,
        1 => format!("memory:{text}"),
        2 => format!("{text}:orders"),
        3 => format!("redb:{directory}/no/such/{}", text.replace("..", "")),
        4 => format!("postgres:{text}"),
        5 => format!("postgres://user:s3cret@127.0.0.1:1/{text}"),
        6 => format!("postgresql://user:s3cret@127.0.0.1:{}/", number(random)),
        7 => format!("postgres://user:s3cret@127.0.0.1:1/db?{text}"),
        _ => format!("postgres://{text}:s3cret@127.0.0.1:1/db?sslmode={text}"),
    }
}

#[tokio::test]
async fn any_url_is_opened_or_refused() {
    watch_panics();
    let directory = directory();
    let path = directory.path().to_str().unwrap();
    for seed in seeds() {
        let mut random = Random::new(seed);
        let (mut opened, mut refused) = (0, 0);
        for _ in 0..4_000 {
            let url = url(&mut random, path);
            let options = Options::new().retry_for(Duration::ZERO);
            // The libraries of the system ask for other hosts only if the URL has one.
            match soon("an answer", options.open(&url)).await {
                Ok(_) => {
                    assert_eq!(url, "memory:");
                    opened += 1;
                }
                Err(error) => {
                    refused += 1;
                    let expected = [
                        ErrorKind::Invalid,
                        ErrorKind::Unavailable,
                        ErrorKind::Unsupported,
                    ];
                    assert!(expected.contains(&error.kind()), "{url:?}: {error:?}");
                    let shown = format!("{error} {error:?}");
                    let is_ours = url.starts_with("postgres");
                    assert!(!is_ours || !shown.contains("s3cret"), "{shown}");
                }
            }
        }
        println!("seed {seed}: {refused} URLs refused, {opened} opened");
        assert!(refused > 3_000);
    }
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 0);
    assert_no_panics();
}

/// A consumer with any options gets the messages, if it can be made.
async fn consume(flow: &Flowstream, group: &str, random: &mut Random) -> Result<()> {
    let mut builder = flow
        .consumer("orders", group)
        .lease(duration(random))
        .prefetch(number(random) as usize)
        .drain(Duration::ZERO);
    if random.one_in(2) {
        builder = builder.redeliver_after(duration(random));
    }
    if random.one_in(2) {
        builder = builder.max_attempts(number(random) as u32);
    }
    if random.one_in(2) {
        builder = builder.max_processing(duration(random));
    }
    let mut consumer = builder.await?;
    for offset in 0..3 {
        // One that was dropped or is to be retried may come again before the next.
        let delivery = loop {
            let delivery = next(&mut consumer).await;
            if delivery.offset() >= offset {
                break delivery;
            }
        };
        assert_eq!(delivery.offset(), offset);
        match random.below(3) {
            0 => delivery.commit().await?,
            1 => delivery.retry_after(duration(random)),
            _ => drop(delivery),
        }
    }
    soon("the shutdown", consumer.control().shutdown()).await;
    Ok(())
}

#[tokio::test]
async fn any_options_work_or_are_refused() {
    watch_panics();
    let directory = directory();
    for seed in seeds() {
        let mut random = Random::new(seed);
        let (mut worked, mut refused) = (0, 0);
        for round in 0..150 {
            let redb = format!("redb:{}/{seed}-{round}.redb", directory.path().display());
            let is_redb = cfg!(feature = "redb") && round % 10 == 0;
            let options = Options::new()
                .clock(ManualClock::new())
                .retry_for(duration(&mut random))
                .cache_bytes(number(&mut random) as usize)
                .memory_bytes(number(&mut random) as usize)
                .max_message_bytes(number(&mut random) as usize);
            let url = if is_redb { &*redb } else { "memory:" };
            let flow = soon("the storage", options.open(url)).await.unwrap();
            let producer = flow
                .producer("orders")
                .batch_bytes(number(&mut random) as usize)
                .batch_messages(number(&mut random) as usize);
            let three = ["a", "b", "c"].map(Message::new);
            match producer.await.unwrap().append(three).await {
                Ok(_) => {}
                // No message is small enough, or the memory is too small for any.
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
                    refused += 1;
                    continue;
                }
            }
            for group in ["one", "two", "three"] {
                match consume(&flow, group, &mut random).await {
                    Ok(()) => worked += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
                        refused += 1;
                    }
                }
            }
        }
        println!("seed {seed}: {worked} sets of options worked, {refused} were refused");
        assert!(worked > 50 && refused > 10);
    }
    assert_no_panics();
}
