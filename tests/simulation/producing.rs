//! Producers: they feed, send and append, are interrupted, give up and go on.

use flowstream::{Batch, Error, Flowstream, Message, Producer};
use futures::SinkExt;

use crate::history::Event;
use crate::run::{Kind, Run};
use crate::support::poll_at_most;

/// A producer with what it gave away and was not told of.
struct Sender {
    run: Run,
    number: u32,
    producer: Producer,
    pending: Vec<u64>,
}

/// Sends so many messages, and sees to it that all are written that it has not given up.
pub(crate) async fn produce(run: Run, flow: Flowstream, number: u32, count: usize) {
    let producer = loop {
        // With a small buffer some leave without a flush.
        match flow.producer("in").batch_messages(2 + run.below(4)).await {
            Ok(producer) => break producer,
            Err(error) => run.pause(&error).await,
        }
    };
    let mut sender = Sender {
        run,
        number,
        producer,
        pending: Vec::new(),
    };
    let mut left = count;
    while left > 0 {
        sender.run.sleep_below(600).await;
        let some = left.min(1 + sender.run.below(3));
        match sender.run.below(10) {
            0..3 => sender.feed(some).await,
            3..6 => sender.send(some).await,
            6..8 => sender.append(some).await,
            8 => sender.append_and_drop(some).await,
            _ => sender.take_back().await,
        }
        left -= some;
    }
    while !sender.flush().await {
        sender.run.sleep_below(200).await;
    }
}

pub(crate) fn body(message: &Message) -> u64 {
    let text = std::str::from_utf8(message.body()).expect("a number");
    text.parse().expect("a number")
}

impl Sender {
    fn message(&self, unit: Option<u64>) -> Message {
        let message = self.run.number();
        self.run.push(Event::Intent {
            producer: self.number,
            message,
            unit,
        });
        message.to_string().into()
    }

    fn unit(&self, count: usize) -> Vec<Message> {
        let unit = Some(self.run.number());
        (0..count).map(|_| self.message(unit)).collect()
    }

    async fn feed(&mut self, count: usize) {
        for _ in 0..count {
            let message = self.message(None);
            self.pending.push(body(&message));
            // It is taken, whatever this says.
            if let Err(error) = self.producer.feed(message).await {
                self.failed(&error);
            }
        }
    }

    async fn send(&mut self, count: usize) {
        self.feed(count).await;
        self.flush().await;
    }

    /// Whether all is written.
    async fn flush(&mut self) -> bool {
        match self.producer.flush().await {
            Ok(()) => {
                for message in self.pending.drain(..) {
                    self.run.push(Event::Acked {
                        message,
                        place: None,
                    });
                }
                true
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    fn failed(&self, error: &Error) {
        assert!(error.is_transient(), "{error}");
        self.run.count(match error.in_doubt() {
            true => Kind::AppendInDoubt,
            false => Kind::AppendFailed,
        });
    }

    async fn append(&mut self, count: usize) {
        let messages = self.unit(count);
        self.append_batch(Batch::from(messages), 30).await;
    }

    /// Appends until it is written, or given up: that happens to so many in a hundred that failed.
    async fn append_batch(&mut self, mut batch: Batch, give_up: usize) {
        loop {
            let messages: Vec<u64> = batch.messages().iter().map(body).collect();
            match self.producer.append(batch).await {
                Ok(appended) => {
                    let places = appended
                        .offsets()
                        .iter()
                        .flat_map(|row| row.offsets.clone());
                    for (message, offset) in messages.into_iter().zip(places) {
                        self.run.push(Event::Acked {
                            message,
                            place: Some((0, offset)),
                        });
                    }
                    return;
                }
                Err(mut error) => {
                    self.failed(&error);
                    self.run.pause(&error).await;
                    batch = error.take_unsent().expect("the batch");
                }
            }
            if self.run.chance(give_up) {
                return self.give_up(&batch);
            }
        }
    }

    /// It is not sent again.
    fn give_up(&mut self, batch: &Batch) {
        for message in batch.messages().iter().map(body) {
            self.run.push(match batch.in_doubt() {
                true => Event::InDoubt { message },
                false => Event::Failed { message },
            });
        }
    }

    /// Drops an append after some polls.
    async fn append_and_drop(&mut self, count: usize) {
        let messages = self.unit(count);
        let sent: Vec<u64> = messages.iter().map(body).collect();
        let polls = self.run.below(6);
        let done = poll_at_most(polls, self.producer.append(messages)).await;
        if done.is_none() {
            self.run.count(Kind::DroppedAppend);
        }
        for message in sent {
            self.run.push(match &done {
                Some(Ok(_)) => Event::Acked {
                    message,
                    place: None,
                },
                Some(Err(error)) if !error.in_doubt() => Event::Failed { message },
                _ => Event::InDoubt { message },
            });
        }
    }

    /// Takes back what is not written, and appends it by hand, or leaves it.
    async fn take_back(&mut self) {
        let batches = self.producer.take_unsent();
        let keeps = self.run.chance(50);
        for batch in batches {
            self.run.count(Kind::TakenBack);
            let taken: Vec<u64> = batch.messages().iter().map(body).collect();
            self.pending.retain(|message| !taken.contains(message));
            match keeps {
                true => self.append_batch(batch, 0).await,
                false => self.give_up(&batch),
            }
        }
    }
}
