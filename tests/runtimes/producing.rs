//! Those who send, while the task dies that writes for them.

use flowstream::{Batch, Error, Message, Producer};
use futures::SinkExt;
use futures::future::BoxFuture;

use crate::deaths::{Act, Scene, Told, in_each_call_of};
use crate::support::*;

const STREAMS: &[&str] = &["orders", "fresh"];

/// What was lost of the first write, if anything was.
const FIRST: [Option<Fault>; 3] = [None, Some(Fault::Lose), Some(Fault::Doubt)];

/// What a producer does with messages that come back with an error.
#[derive(Clone, Copy)]
enum Reaction {
    SendsAgain,
    GivesUp,
}

#[test]
fn a_flush_writes_all_or_the_sink_has_it_still() {
    in_each_call_of(FIRST, |scene, first| {
        flushing(scene, first, Reaction::SendsAgain)
    });
}

#[test]
fn what_the_sink_gives_back_is_not_written_or_in_doubt() {
    in_each_call_of(FIRST, |scene, first| {
        flushing(scene, first, Reaction::GivesUp)
    });
}

#[test]
fn an_append_writes_all_or_gives_it_back() {
    in_each_call_of(FIRST, |scene, first| {
        appending(scene, first, Reaction::SendsAgain)
    });
}

#[test]
fn what_an_append_gives_back_is_not_written_or_in_doubt() {
    in_each_call_of(FIRST, |scene, first| {
        appending(scene, first, Reaction::GivesUp)
    });
}

/// Two to a stream that is there, and one between them to a stream that is not.
fn messages() -> [Message; 3] {
    let fresh = Message::new("2").with_stream("fresh").unwrap();
    ["1".into(), fresh, "3".into()]
}

fn written<const N: usize>(bodies: [&str; N]) -> Told {
    Told {
        streams: STREAMS,
        written: bodies.map(str::to_owned).to_vec(),
        in_doubt: Vec::new(),
    }
}

fn lose_the_first(scene: &Scene, first: Option<Fault>) {
    if let Some(fault) = first {
        scene.faulty().times(Call::Append, fault, 1);
    }
}

fn flushing(scene: Scene, first: Option<Fault>, reaction: Reaction) -> BoxFuture<'static, Act> {
    Box::pin(async move {
        let mut producer = scene.flow().producer("orders").await.unwrap();
        lose_the_first(&scene, first);
        let sent = producer.send("0".into()).await;
        assert_eq!(sent.is_err(), first.is_some());
        Act::new(flush(producer, reaction))
    })
}

async fn flush(mut producer: Producer, reaction: Reaction) -> Told {
    for message in messages() {
        producer.feed(message).await.expect("room in the buffer");
    }
    let all = ["0", "1", "2", "3"];
    let Err(error) = producer.flush().await else {
        return written(all);
    };
    match reaction {
        Reaction::SendsAgain => {
            let flushed = producer.flush().await;
            flushed.expect("one that nothing happens to");
            assert_eq!(producer.take_unsent().await.len(), 0, "all is written");
            written(all)
        }
        Reaction::GivesUp => {
            let batches = producer.take_unsent().await;
            let told = given_up(all, &error, &batches);
            let flushed = producer.flush().await;
            flushed.expect("nothing is left in the sink");
            told
        }
    }
}

fn appending(scene: Scene, first: Option<Fault>, reaction: Reaction) -> BoxFuture<'static, Act> {
    Box::pin(async move {
        let mut producer = scene.flow().producer("orders").await.unwrap();
        lose_the_first(&scene, first);
        let batch = match first {
            None => Batch::from(messages().to_vec()),
            Some(_) => {
                let appended = producer.append(messages()).await;
                let error = appended.expect_err("the answer is lost");
                error.unsent
            }
        };
        Act::new(append(producer, batch, reaction))
    })
}

async fn append(mut producer: Producer, batch: Batch, reaction: Reaction) -> Told {
    let all = ["1", "2", "3"];
    let Err(failed) = producer.append(batch).await else {
        return written(all);
    };
    let (error, batch) = (failed.error, failed.unsent);
    assert_eq!(batch.in_doubt(), error.in_doubt());
    match reaction {
        Reaction::SendsAgain => {
            assert_eq!(batch.len(), all.len(), "all of it comes back");
            let appended = producer.append(batch).await;
            appended.expect("one that nothing happens to");
            written(all)
        }
        Reaction::GivesUp => given_up(all, &error, &[batch]),
    }
}

/// What has not come back is written.
fn given_up<const N: usize>(all: [&str; N], error: &Error, batches: &[Batch]) -> Told {
    let mut told = written(all);
    for batch in batches {
        assert!(!batch.in_doubt() || error.in_doubt(), "{error}");
        let bodies: Vec<String> = batch.messages().iter().map(text).collect();
        told.written.retain(|body| !bodies.contains(body));
        if batch.in_doubt() {
            told.in_doubt.extend(bodies);
        }
    }
    told
}
