//! The runtimes of a run, driven in turns on one thread, so that one of them can end while the others go on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::time::Time;

/// Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Machine(Arc<Mutex<Runtimes>>);

#[derive(Default)]
struct Runtimes {
    /// In the order in which they began. The first one is there until the end.
    running: Vec<(u64, Arc<Runtime>)>,
    count: u64,
    /// They end as soon as nobody is inside of them.
    ending: Vec<u64>,
}

/// A runtime of a [`Machine`].
#[derive(Clone, Debug)]
pub(crate) struct Room {
    number: u64,
    handle: Handle,
}

impl Room {
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Machine {
    /// Another runtime.
    pub(crate) fn open(&self) -> Room {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let mut runtimes = self.0.lock().unwrap();
        runtimes.count += 1;
        let number = runtimes.count;
        let handle = runtime.handle().clone();
        runtimes.running.push((number, Arc::new(runtime)));
        Room { number, handle }
    }

    /// A runtime ends with all its tasks, as soon as those that run now have come to rest.
    pub(crate) fn end(&self, room: &Room) {
        self.0.lock().unwrap().ending.push(room.number);
    }

    /// Drives all runtimes until this task, which is on the first one, has ended.
    pub(crate) fn run<T>(&self, time: &Time, task: JoinHandle<T>) -> T {
        loop {
            self.rest();
            if task.is_finished() {
                break;
            }
            if !self.end_some() {
                assert!(time.pass(), "all wait, and for nothing");
            }
        }
        let (_, first) = self.0.lock().unwrap().running[0].clone();
        let ended = first.block_on(task);
        drop(first);
        self.stop();
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }

    /// Until nobody has anything to do. What they do for each other takes them some turns.
    fn rest(&self) {
        let running = self.0.lock().unwrap().running.clone();
        let turns = if running.len() > 1 { 2 } else { 1 };
        for _ in 0..turns {
            for (_, runtime) in &running {
                runtime.block_on(idle());
            }
        }
    }

    /// Whether any runtime was to end.
    fn end_some(&self) -> bool {
        let ended: Vec<_> = {
            let mut runtimes = self.0.lock().unwrap();
            let ending = std::mem::take(&mut runtimes.ending);
            let is_ending = |(number, _): &mut (u64, _)| ending.contains(number);
            runtimes.running.extract_if(.., is_ending).collect()
        };
        !ended.is_empty()
    }

    fn stop(&self) {
        let running = std::mem::take(&mut self.0.lock().unwrap().running);
        drop(running);
    }
}

/// Its own time, which nothing else sleeps by, passes once none of its tasks has anything to do.
async fn idle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
