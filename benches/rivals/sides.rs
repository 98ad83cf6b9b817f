//! What is asked of everybody.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::table::Bar;

/// Something that takes messages and gives them back.
pub(crate) trait Rival {
    fn name(&self) -> &'static str;

    /// Its version, and how durable its answers are.
    fn what(&self) -> String;

    /// What the rate of ours is hoped to be, as a multiple of this one's.
    fn bar(&self) -> Option<Bar> {
        None
    }

    /// Writes batches, each durable before the next: messages a second.
    fn produce(&mut self, window: Duration) -> f64;

    /// Whether it reads differently from the others of its kind.
    fn consumes(&self) -> bool {
        true
    }

    /// Reads so many batches, less in a quick run, with its place durable after each: messages a
    /// second. Fills what it reads before the clock runs.
    fn consume(&mut self, part: usize) -> f64;

    /// Whether a message comes soon after it was sent.
    fn delivers(&self) -> bool {
        true
    }

    /// From the call that sends until it was received: the median of so many, in microseconds.
    fn delivery(&mut self, count: usize) -> f64;
}

pub(crate) type Rivals<'a> = Vec<Box<dyn Rival + 'a>>;

/// Sends one by one, each some time after the one before was received.
pub(crate) fn median_delivery(
    count: usize,
    arrivals: &Receiver<Instant>,
    mut send: impl FnMut(),
) -> f64 {
    let mut times: Vec<Duration> = (0..count)
        .map(|number| {
            rest(number);
            let began = Instant::now();
            send();
            arrivals.recv().expect("somebody who receives") - began
        })
        .collect();
    times.sort_unstable();
    times[(count - 1) / 2].as_nanos() as f64 / 1e3
}

/// Up to 100 ms, evenly: who asks now and then is not met at the same moment each time.
pub(crate) fn rest(number: usize) {
    let golden = (number as f64 * 0.618_034).fract();
    std::thread::sleep(Duration::from_secs_f64(golden / 10.0));
}

/// Calls it again and again while the window lasts: messages a second, if each call sends a batch.
pub(crate) fn rate(window: Duration, mut batch: impl FnMut()) -> f64 {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < window {
        batch();
        sent += crate::BATCH;
    }
    sent as f64 / began.elapsed().as_secs_f64()
}

pub(crate) fn per_second(batches: usize, began: Instant) -> f64 {
    (batches * crate::BATCH) as f64 / began.elapsed().as_secs_f64()
}
