//! What is far too large is refused before anybody touches it.

use bytes::Bytes;
use flowstream::storage::Records;
use flowstream::{ErrorKind, Flowstream, Message, Name, Options};
use futures::SinkExt;

use crate::{assert_no_panics, directory, watch_panics};

const GIB: usize = 1 << 30;

/// The most memory that the process ever had, in bytes; `None` where the system does not say.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Zeroes that the system has not given any memory for.
fn huge() -> Bytes {
    Bytes::from(vec![0; GIB])
}

pub(crate) async fn refuse_a_gib(flow: &Flowstream) {
    let before = peak();
    let mut producer = flow.producer("orders").await.unwrap();
    let sound = producer.append(Message::new("before")).await.unwrap();
    for message in [
        Message::new(huge()),
        Message::new("").with_key(huge()),
        Message::new("small").with_body(huge()).with_key("key"),
    ] {
        let error = producer
            .append([Message::new("a"), message.clone()])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.unsent.len(), 2);
        let error = producer.send(message).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(producer.take_refused().is_some());
    }
    // Each is small enough, and all together are not.
    let many: Vec<Message> = vec![Message::new(huge().slice(..4 << 20)); 17];
    let error = producer.append(many).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let too_many: Vec<Message> = vec![Message::new(""); (1 << 20) + 1];
    let error = producer.append(too_many).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(flow.bounds("orders").await.unwrap(), [0..1]);
    let after = producer.append(Message::new("after")).await.unwrap();
    assert_eq!(
        after.offsets()[0].offsets.start,
        sound.offsets()[0].offsets.end
    );
    if let (Some(before), Some(after)) = (before, peak()) {
        // The others of this process, and a million empty messages, have some.
        let grown = after - before;
        println!("peak memory grew by {} MiB", grown >> 20);
        assert!(grown < GIB / 2, "{grown} bytes");
    }
}

#[tokio::test]
async fn a_body_of_a_gib_is_refused_before_it_is_touched() {
    watch_panics();
    let directory = directory();
    let mut urls = vec!["memory:".to_owned()];
    if cfg!(feature = "redb") {
        urls.push(format!("redb:{}/large.redb", directory.path().display()));
    }
    for url in urls {
        // The limit cannot be set so high that it would do harm.
        let flow = Options::new()
            .max_message_bytes(usize::MAX)
            .open(&url)
            .await;
        refuse_a_gib(&flow.unwrap()).await;
    }
    assert!(Records::decode(&huge()).is_err());
    let text = "x".repeat(64 << 20);
    let error = Name::new(&text).unwrap_err();
    assert!(error.to_string().len() < 200);
    assert_no_panics();
}
