//! Consumers that join, leave and die at random, in many processes.

use std::time::{Duration, Instant};

use super::check::Summary;
use super::history::{History, What};
use super::trials::World;
use super::{Job, Process, Style};

/// What is let loose.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    pub processes: usize,
    /// In each process.
    pub consumers: usize,
    pub time: Duration,
    pub lease: Duration,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Aftermath {
    pub sum: Summary,
    pub kills: u32,
    /// Consumers that joined.
    pub joined: usize,
    /// The longest that the group stood still between two commits.
    pub longest_gap: Duration,
    /// How long it took until each consumer of the last line had its turn.
    pub line: Duration,
}

impl Storm {
    pub fn run(&self, world: &World<'_>) -> Result<Aftermath, String> {
        let history = History::default();
        let mut job = Job::new(world.url(), "storm", "crew");
        (job.consumers, job.lease, job.style) = (self.consumers, self.lease, Style::Storm);
        let producing = world.produce("storm", Duration::from_millis(10), &history);
        let mut processes: Vec<_> = (0..self.processes)
            .map(|_| Process::start(&job, &history))
            .collect();

        let (began, mut kills) = (Instant::now(), 0);
        while began.elapsed() < self.time {
            std::thread::sleep(Duration::from_millis(300 + random(500)));
            let victim = random(self.processes as u64) as usize;
            processes[victim].kill();
            processes[victim] = Process::start(&job, &history);
            kills += 1;
        }

        // Nobody starves: all who are there now get a turn, one after the other.
        let (mark, lined_up) = (history.mark(), Instant::now());
        for process in &mut processes {
            process.tell("line up");
        }
        let mut left = 0;
        history.wait_for("the turn of each", mark, |event| {
            left += usize::from(event.what == What::Left);
            left == self.processes * self.consumers
        });
        let line = lined_up.elapsed();

        (job.consumers, job.style) = (1, Style::Stay);
        let last = Process::start(&job, &history);
        let story = world.finish(producing, &history, &job, "crew");
        drop(last);
        let mut joined: Vec<_> = story
            .events
            .iter()
            .map(|e| (e.process, e.consumer))
            .collect();
        joined.sort();
        joined.dedup();
        Ok(Aftermath {
            sum: story.check()?,
            kills,
            joined: joined.len(),
            longest_gap: story.longest_gap(),
            line,
        })
    }
}

/// Any number below this one.
fn random(below: u64) -> u64 {
    (flowstream::storage::Id::random().0 as u64) % below
}
