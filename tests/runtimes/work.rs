//! A group that goes on until it has done all, whatever dies, and what it was told meanwhile.

use std::collections::BTreeSet;
use std::future::IntoFuture;
use std::panic::AssertUnwindSafe;

use flowstream::{Consumer, Delivery, Flowstream, Producer, Result};
use futures::{FutureExt, SinkExt};

use crate::deaths::Scene;

pub(crate) const GROUP: &str = "work";

/// A driver that panics in a call that the caller makes itself panics there: it is made again.
pub(crate) async fn direct<T, F: Future<Output = Result<T>>>(call: impl Fn() -> F) -> T {
    loop {
        if let Ok(Ok(value)) = AssertUnwindSafe(call()).catch_unwind().await {
            return value;
        }
    }
}

pub(crate) async fn consumer(flow: &Flowstream, stream: &str) -> Consumer {
    let building = || {
        flow.consumer(stream, GROUP)
            .dead_letters("dead")
            .into_future()
    };
    direct(building).await
}

pub(crate) type Place = (u32, u64);

pub(crate) fn place(delivery: &Delivery) -> Place {
    (delivery.partition(), delivery.offset())
}

/// What a group was told and has been given.
pub(crate) struct Work {
    scene: Scene,
    stream: &'static str,
    pub(crate) max_attempts: Option<u32>,
    delivered: BTreeSet<Place>,
    /// A commit of them was said to be durable.
    done: BTreeSet<Place>,
    /// And of these it was said that it is not: they come again.
    owed: BTreeSet<Place>,
}

impl Work {
    pub(crate) fn new(scene: &Scene, stream: &'static str) -> Self {
        Self {
            scene: scene.clone(),
            stream,
            max_attempts: None,
            delivered: BTreeSet::new(),
            done: BTreeSet::new(),
            owed: BTreeSet::new(),
        }
    }

    pub(crate) fn delivered(&mut self, delivery: &Delivery) {
        let place = place(delivery);
        assert!(
            !self.done.contains(&place),
            "{place:?} came again after its commit"
        );
        self.owed.remove(&place);
        self.delivered.insert(place);
    }

    pub(crate) fn told<T>(&mut self, place: Place, result: &Result<T>) {
        match result {
            Ok(_) => drop(self.done.insert(place)),
            Err(error) if error.in_doubt() => {}
            Err(_) => drop(self.owed.insert(place)),
        }
    }

    async fn consumer(&self) -> Consumer {
        let building = || {
            let flow = self.scene.flow();
            let builder = flow.consumer(self.stream, GROUP).dead_letters("dead");
            match self.max_attempts {
                Some(attempts) => builder.max_attempts(attempts).into_future(),
                None => builder.into_future(),
            }
        };
        direct(building).await
    }

    /// Goes on until the group has done all, with a new consumer wherever one was told that it ended.
    pub(crate) async fn finish<F>(
        &mut self,
        consumer: Option<Consumer>,
        handle: fn(Scene, Delivery) -> F,
    ) where
        F: Future<Output = Option<Result<()>>>,
    {
        let mut consumer = match consumer {
            Some(consumer) => consumer,
            None => self.consumer().await,
        };
        while !self.is_finished().await {
            match self.next(&mut consumer).await {
                Next::Delivery(delivery) => {
                    let place = place(&delivery);
                    if let Some(result) = handle(self.scene.clone(), delivery).await {
                        self.told(place, &result);
                    }
                }
                Next::Nothing => {}
                Next::End => consumer = self.consumer().await,
            }
        }
        consumer.control().shutdown().await;
        assert!(
            self.owed.is_empty(),
            "not done, and never again: {:?}",
            self.owed
        );
        if self.max_attempts.is_none() {
            assert_eq!(self.delivered.len(), self.count().await, "all came");
        }
    }

    /// Waits for so many messages, with a new consumer where one was told that it ended.
    pub(crate) async fn take(&mut self, mut consumer: Consumer, count: u64) {
        while (self.delivered.len() as u64) < count {
            match self.next(&mut consumer).await {
                Next::Delivery(delivery) => delivery.ack(),
                Next::Nothing => {}
                Next::End => consumer = self.consumer().await,
            }
        }
        self.finish(Some(consumer), committed).await;
    }

    /// Each message goes to a stream with its commit.
    pub(crate) async fn forward(&mut self, mut producer: Producer) {
        let mut consumer = self.consumer().await;
        while !self.is_finished().await {
            match self.next(&mut consumer).await {
                Next::Delivery(delivery) => {
                    let mut sent = producer.send(delivery.into_message()).await;
                    for _ in 0..3 {
                        if sent.is_err() {
                            sent = producer.flush().await;
                        }
                    }
                    sent.expect("one that nothing happens to");
                }
                Next::Nothing => {}
                Next::End => consumer = self.consumer().await,
            }
        }
        consumer.control().shutdown().await;
    }

    async fn next(&mut self, consumer: &mut Consumer) -> Next {
        // All has come, so perhaps nothing does any more.
        let count = self.count().await;
        let all_came = count > 0 && self.delivered.len() == count;
        let may_be_over = all_came || self.max_attempts.is_some();
        let coming = tokio::select! {
            biased;
            coming = consumer.next() => coming,
            () = self.scene.sleep(), if may_be_over => return Next::Nothing,
        };
        match coming {
            Some(Ok(delivery)) => {
                self.delivered(&delivery);
                Next::Delivery(delivery)
            }
            Some(Err(error)) => {
                let end = consumer.next().await;
                assert!(
                    end.is_none(),
                    "it did not end with {error}, but has {end:?}"
                );
                Next::End
            }
            None => panic!("the stream ended and did not say why"),
        }
    }

    async fn count(&self) -> usize {
        let bounds = self.scene.calm().bounds(self.stream).await.unwrap();
        bounds.iter().map(|bounds| bounds.end as usize).sum()
    }

    async fn is_finished(&self) -> bool {
        let states = self.scene.calm().group(self.stream, GROUP).await;
        states.is_ok_and(|states| states.iter().all(|state| state.lag() == 0))
    }
}

enum Next {
    Delivery(Delivery),
    Nothing,
    /// It was told that the stream ends.
    End,
}

pub(crate) async fn committed(_: Scene, delivery: Delivery) -> Option<Result<()>> {
    Some(delivery.commit().await)
}
