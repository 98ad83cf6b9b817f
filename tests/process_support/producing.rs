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
    task: JoinHandle<u64>,
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
            for offset in 0.. {
                tokio::select! {
                    biased;
                    _ = &mut stopped => return offset,
                    _ = ticks.tick() => {}
                }
                let at = now();
                let sent = producer.send(offset.to_string().into()).await;
                sent.expect("a message is sent");
                history.push(Event {
                    at,
                    offset,
                    ..Event::of(0, What::Sent)
                });
            }
            unreachable!()
        });
        Self { stop, task }
    }

    /// Stops, and gives the end of the log.
    pub async fn finish(self) -> u64 {
        let _ = self.stop.send(());
        self.task.await.expect("the producer")
    }
}
