//! Producers: they feed, send and append, are interrupted, give up and go on.

use std::future::IntoFuture;
use std::time::Duration;

use flowstream::{AppendReceipt, Batch, Error, Flowstream, Message, Producer};
use futures::SinkExt;

use crate::history::Event;
use crate::run::{Kind, LONGEST_CALL, Mistake, Run};
use crate::support::poll_at_most;

/// A producer with what it gave away and was not told of.
struct Sender {
    run: Run,
    number: u32,
    producer: Producer,
    pending: Vec<u64>,
}

/// More than two of its buffers take.
const BURST: usize = 7;

/// Sends so many messages, and sees to it that all are written that it has not given up.
pub(crate) async fn produce(run: Run, flow: Flowstream, number: u32, count: usize) {
    // With a small buffer some leave without a flush.
    let producer = {
        let building = || {
            flow.producer("in")
                .batch_messages(1 + run.below(4))
                .into_future()
        };
        run.persist(building).await
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
        match sender.run.below(12) {
            0..3 => sender.feed(some).await,
            3..6 => sender.send(some).await,
            6..8 => sender.append(some).await,
            8 => sender.append_and_drop(some).await,
            // Several buffers are under way.
            9 | 10 => sender.send(BURST).await,
            _ => sender.take_back().await,
        }
        left -= some;
    }
    while !sender.flush().await {
        sender.run.sleep_below(200).await;
    }
}

/// One of many who append a message each while the storage is away. Each of them is answered in time,
/// however many wait: within its budget, and the time of what is under way before it, of the look whether
/// it landed before, and of one attempt.
pub(crate) async fn wait_in_line(run: Run, flow: Flowstream, number: u32, budget: Duration) {
    let within = budget + Duration::from_millis(3 * LONGEST_CALL as u64);
    let building = || flow.producer("in").into_future();
    let producer = run.persist(building).await;
    let mut sender = Sender {
        run,
        number,
        producer,
        pending: Vec::new(),
    };
    let mut batch = Batch::from(sender.unit(1));
    let message = body(&batch.messages()[0]);
    let mut began = sender.run.elapsed();
    loop {
        let result = sender.producer.append(batch).await;
        let took = sender.run.elapsed() - began;
        sender.run.push(Event::Answered {
            message,
            took,
            within,
        });
        let failed = match result {
            Ok(appended) => return sender.appended(vec![message], &appended),
            Err(failed) => failed,
        };
        sender.failed(&failed.error);
        batch = failed.unsent;
        sender.run.sleep_below(1_000).await;
        if !sender.run.has(Mistake::CountsAllAttempts) {
            began = sender.run.elapsed();
        }
    }
}

/// One of a few keys, so that it has its place in one of the partitions.
fn keyed(message: u64) -> Message {
    Message::new(message.to_string()).with_key((message % 7).to_string())
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
        keyed(message)
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
        self.run.expect(error);
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
                Ok(appended) => return self.appended(messages, &appended),
                Err(failed) => {
                    self.failed(&failed.error);
                    self.run.pause(&failed.error).await;
                    batch = failed.unsent;
                    assert_eq!(batch.len(), messages.len(), "all of the batch");
                }
            }
            if self.run.chance(give_up) {
                return self.give_up(&batch);
            }
        }
    }

    /// Where all went to one partition, it is known which went where.
    fn appended(&self, messages: Vec<u64>, appended: &AppendReceipt) {
        let place = |at: usize| match appended.offsets() {
            [row] => Some((row.partition as usize, row.offsets.start + at as u64)),
            _ => None,
        };
        for (at, message) in messages.into_iter().enumerate() {
            let place = place(at);
            self.run.push(Event::Acked { message, place });
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
        let batches = self.producer.take_unsent().await;
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
