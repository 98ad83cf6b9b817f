//! A steady stream of messages from this process.

use std::time::Duration;

use flowstream::Flowstream;
use futures::SinkExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::history::{Event, History, What, now};

/// Sends a message, waits, and so on; nobody else may write to the stream.
pub struct Producing {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<Duration>>,
}

impl Producing {
    pub fn start(
        runtime: &Handle,
        flow: &Flowstream,
        stream: &str,
        interval: Duration,
        history: &History,
    ) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let (flow, stream, history) = (flow.clone(), stream.to_owned(), history.clone());
        let task = runtime.spawn(async move {
            let mut producer = flow.producer(stream).await.expect("a producer");
            let mut ticks = tokio::time::interval(interval);
            let mut sends = Vec::new();
            loop {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return sends,
                    _ = ticks.tick() => {}
                }
                let (at, offset) = (now(), sends.len() as u64);
                let sent = producer.send(offset.to_string().into()).await;
                sent.expect("a message is sent");
                sends.push(now().saturating_sub(at));
                history.push(Event {
                    at,
                    offset,
                    ..Event::of(0, What::Sent)
                });
            }
        });
        Self { stop, task }
    }

    /// Stops, and gives how long each `send` took.
    pub async fn finish(self) -> Vec<Duration> {
        let _ = self.stop.send(());
        self.task.await.expect("the producer")
    }
}
