//! Processes, and those who consume in them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use flowstream::{Control, Flowstream};
use tokio::task::JoinHandle;

use crate::consuming::Pipeline;
use crate::machine::Room;
use crate::support::Faulty;

/// A process: what it is killed or cut off with. Each has one consumer at most: where several watch
/// one partition, tokio decides by chance which of them is woken first.
pub(crate) struct Process {
    pub(crate) flow: Flowstream,
    pub(crate) faulty: Faulty,
    pub(crate) budget: Duration,
    pub(crate) consuming: Option<Consuming>,
    /// What its consumer runs on; without one it runs at home.
    pub(crate) room: Option<Room>,
    /// It is needed until the end.
    pub(crate) is_needed: bool,
}

pub(crate) struct Consuming {
    pub(crate) pipeline: Pipeline,
    pub(crate) control: Shared,
    pub(crate) task: JoinHandle<()>,
}

/// The consumer that is there now, with its number.
pub(crate) type Shared = Arc<Mutex<Option<(u32, Control)>>>;

impl Consuming {
    pub(crate) fn start(pipeline: Pipeline, room: Option<&Room>, after: Duration) -> Self {
        let control = Arc::new(Mutex::new(None));
        let room = room.unwrap_or(&pipeline.run.home);
        let consuming = consume(pipeline.clone(), control.clone(), after);
        Self {
            task: room.handle().spawn(consuming),
            pipeline,
            control,
        }
    }

    /// With another consumer, of the same process.
    pub(crate) fn again(&mut self, room: Option<&Room>, after: Duration) {
        *self = Self::start(self.pipeline.clone(), room, after);
    }
}

/// Until it is shut down; with another consumer where one was told that its stream ends.
async fn consume(pipeline: Pipeline, control: Shared, after: Duration) {
    let run = pipeline.run.clone();
    run.time.sleep(after).await;
    loop {
        let consumer = pipeline.consumer().await;
        let number = run.number() as u32;
        *control.lock().unwrap() = Some((number, consumer.control()));
        let is_broken = pipeline.consume(consumer, number).await;
        let is_wanted = control.lock().unwrap().take().is_some();
        if !is_broken || !is_wanted {
            return;
        }
        run.sleep_below(200).await;
    }
}
