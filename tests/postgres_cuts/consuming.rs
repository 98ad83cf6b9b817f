//! The part of the script that consumes: each message in another way.

use std::time::Duration;

use flowstream::postgres::{self, DeliveryExt, ProducerExt, sqlx};
use flowstream::{Delivery, Message, Producer};
use tokio::time::timeout;

use crate::script::{BOUND, MESSAGES, REMOTE, Script, TRANSACTION};

impl Script<'_> {
    pub(crate) async fn consume(&mut self) {
        let (input, dead) = (self.names.input.clone(), self.names.dead.clone());
        let consumer = self.insist(async |flow| {
            let consumer = flow.consumer(&input, "g").lease(Duration::from_secs(3));
            let consumer = consumer.redeliver_after(Duration::from_millis(50));
            let consumer = consumer.drain(Duration::from_secs(1)).dead_letters(&dead);
            consumer.await
        });
        self.consumer = Some(consumer.await);
        self.consume_up_to(MESSAGES).await;
    }

    pub(crate) async fn hear_of_others(&mut self) {
        let others = self.bench.direct.producer(&self.names.input);
        let mut producer = others.await.expect("a producer");
        for number in 0..REMOTE {
            let body = format!("remote {number}");
            let appended = producer.append(Message::new(body.clone())).await;
            appended.expect("appended");
            self.book.input.push(body);
        }
        self.consume_up_to(self.book.input.len() as u64).await;
        let control = self.consumer.as_ref().expect("a consumer").control();
        timeout(BOUND, control.shutdown()).await.expect("it stops");
        self.consumer = None;
    }

    /// Until the group has done so many.
    async fn consume_up_to(&mut self, count: u64) {
        let (input, out) = (self.names.input.clone(), self.names.out.clone());
        let mut producer = self.producer(&out).await;
        let mut consumer = self.consumer.take().expect("a consumer");
        loop {
            match timeout(Duration::from_millis(40), consumer.next()).await {
                Ok(Some(Ok(delivery))) => self.handle(delivery, &mut producer).await,
                Ok(Some(Err(error))) => self.told(&error, false),
                Ok(None) => panic!("the consumer ended"),
                Err(_) => {
                    assert!(
                        self.began.elapsed() < BOUND,
                        "the group does not drain: {:?}",
                        self.book.errors
                    );
                    let states = self.insist(async |flow| flow.group(&input, "g").await);
                    if states.await[0].position() >= count {
                        break;
                    }
                }
            }
        }
        self.consumer = Some(consumer);
    }

    /// Each in another way, by its offset.
    async fn handle(&mut self, delivery: Delivery, producer: &mut Producer) {
        let offset = delivery.offset();
        assert!(
            !self.book.committed.contains(&offset),
            "{offset} was committed and came again, attempt {}",
            delivery.attempt()
        );
        let is_done = match offset % 5 {
            0 => self.settle_commit(delivery.commit().await),
            1 => {
                let message = delivery.into_message();
                let message = message.with_body(format!("forwarded {offset}"));
                self.append(producer, message).await
            }
            2 => self.transact(delivery, producer).await,
            3 if delivery.attempt() == 1 => {
                delivery.retry_after(Duration::from_millis(1));
                false
            }
            3 => match delivery.dead_letter("it is the third").await {
                Ok(()) => true,
                Err(failed) => {
                    self.told(&failed.error, false);
                    // It may have landed.
                    !failed.is_fenced() && self.append(producer, failed.unsent).await
                }
            },
            _ => {
                delivery.ack();
                false
            }
        };
        if is_done {
            self.book.committed.insert(offset);
        }
    }

    pub(crate) fn settle_commit(&mut self, committed: flowstream::Result<()>) -> bool {
        match committed {
            Ok(()) => true,
            Err(error) => {
                self.told(&error, false);
                false
            }
        }
    }

    /// Three things in one transaction of the application. Where it fails, the message comes again
    /// unless it was done.
    async fn transact(&mut self, delivery: Delivery, producer: &mut Producer) -> bool {
        let (run, offset) = (self.run, delivery.offset());
        let pool = self.client.as_ref().expect("it is open").pool.clone();
        let work = async {
            let mut tx = pool.begin().await.ok()?;
            let effect = sqlx::query("INSERT INTO effects VALUES ($1, $2)");
            let effect = effect.bind(run).bind(offset as i64).execute(&mut *tx);
            effect.await.ok()?;
            let message = Message::new(format!("transacted {offset}"));
            let appended = producer.append_in(&mut tx, message).await;
            let done = match appended {
                Ok(()) => delivery.commit_in(&mut tx).await,
                Err(failed) => Err(failed.error),
            };
            Some(match done {
                Ok(()) => postgres::commit(tx).await,
                Err(error) => Err(error),
            })
        };
        let done = timeout(TRANSACTION, work).await;
        if let Ok(Some(Ok(()))) = done {
            return true;
        }
        if let Ok(Some(Err(error))) = done {
            self.told(&error, true);
        }
        // Its connection may be dead without a word.
        self.client.as_mut().expect("it is open").pool = self.bench.pool();
        false
    }
}
