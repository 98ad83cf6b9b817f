//! What is done to processes.

use std::time::Duration;

use crate::consuming::Plan;
use crate::history::Event;
use crate::producing::wait_in_line;
use crate::run::{Kind, Mistake};
use crate::support::{Call, Fault};
use crate::world::World;

/// So many wait in one outage.
const CROWD: usize = 20;

impl World {
    /// Something happens to one of the processes that consume.
    pub(crate) fn harm(&mut self) {
        let consuming = self.processes.iter_mut().enumerate();
        let mut consuming = consuming.filter(|(_, process)| process.consuming.is_some());
        let count = consuming.by_ref().count();
        if count == 0 {
            return;
        }
        let which = self.run.below(count);
        let consuming = self.processes.iter().enumerate();
        let mut consuming = consuming.filter(|(_, process)| process.consuming.is_some());
        let (at, _) = consuming.nth(which).expect("so many");
        match self.run.below(24) {
            0..5 => self.kill(at),
            5..10 => self.cut(at, Fault::Hold, Kind::CutOff),
            10..13 => self.cut(at, Fault::Fail, Kind::Refused),
            13..16 => self.shut_down(at),
            16..18 => self.drop_consumer(at),
            18..22 => self.end_runtime(at),
            22 if self.run.chance(30) => self.crowd(at),
            _ => {}
        }
    }

    /// Nothing is heard of it any more, but what is under way may arrive.
    fn kill(&mut self, at: usize) {
        if self.processes[at].is_needed {
            return self.end_runtime(at);
        }
        self.run.count(Kind::Killed);
        let process = self.processes.swap_remove(at);
        process.faulty.set_all(Fault::Hold);
        if let Some(room) = &process.room {
            self.run.machine.end(room);
        }
        if let Some(consuming) = process.consuming {
            consuming.task.abort();
            let Plan { number, .. } = consuming.pipeline.plan;
            self.start(self.plans[number].clone());
        }
    }

    /// The runtime ends that its consumer is on, in the middle of whatever call. The process goes on at
    /// home, with another consumer.
    fn end_runtime(&mut self, at: usize) {
        let time = self.run.time_below(500);
        let process = &mut self.processes[at];
        let (Some(room), Some(consuming)) = (process.room.take(), &mut process.consuming) else {
            return;
        };
        self.run.count(Kind::RuntimeEnded);
        self.run.machine.end(&room);
        consuming.again(None, time);
    }

    /// Its calls do not arrive for a while; those that wait arrive then, or are refused.
    fn cut(&mut self, at: usize, fault: Fault, kind: Kind) {
        self.run.count(kind);
        self.processes[at].faulty.set_all(fault);
        self.heal_after(at, self.run.time_below(4_000));
    }

    fn heal_after(&self, at: usize, time: Duration) {
        let (faulty, run) = (self.processes[at].faulty.clone(), self.run.clone());
        self.run.spawn(async move {
            run.time.sleep(time).await;
            faulty.heal();
        });
    }

    /// Many callers wait while the storage is away, each of them with a message in doubt.
    fn crowd(&mut self, at: usize) {
        self.run.count(Kind::CrowdInOutage);
        let process = &mut self.processes[at];
        process.is_needed = true;
        process.faulty.set_all(Fault::Fail);
        process.faulty.set(Call::Append, Fault::Doubt);
        process.faulty.clear(Call::CreateStream);
        for _ in 0..CROWD {
            let (run, flow) = (self.run.clone(), process.flow.clone());
            let number = self.producers.len() as u32;
            let waiting = wait_in_line(run, flow, number, process.budget);
            self.producers.push(self.run.spawn(waiting));
        }
        let time = Duration::from_secs(12) + self.run.time_below(4_000);
        self.until = self.until.max(self.run.elapsed() + time);
        self.heal_after(at, time);
    }

    fn shut_down(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if let Some(consuming) = &mut process.consuming {
            let Some((consumer, control)) = consuming.control.lock().unwrap().take() else {
                return;
            };
            self.run.count(Kind::ShutDown);
            if !self.run.has(Mistake::ShutsDownInSecret) {
                self.run.push(Event::ShutDown { consumer });
            }
            drop(control.shutdown());
            consuming.again(process.room.as_ref(), self.run.time_below(500));
        }
    }

    fn drop_consumer(&mut self, at: usize) {
        let process = &mut self.processes[at];
        if let Some(consuming) = &mut process.consuming {
            self.run.count(Kind::DroppedConsumer);
            consuming.task.abort();
            consuming.again(process.room.as_ref(), self.run.time_below(500));
        }
    }
}
