//! Histories that are as promised: random ones, from a toy of the real thing.

use std::collections::BTreeSet;

use crate::history::{Event, Forward, Group, History, Log, Owner, Seen};
use crate::support::Random;

pub(crate) const IN: usize = 0;
const OTHER: usize = 1;
pub(crate) const OUT: usize = 2;
pub(crate) const DEAD: usize = 3;

/// Two logs with their producers, a group of each, and one that copies the first.
pub(crate) fn history(seed: u64) -> History {
    let mut maker = Maker::new(seed);
    for _ in 0..40 + maker.random.below(120) {
        maker.step();
    }
    maker.finish()
}

/// So many messages, one after the other, with nothing remarkable.
pub(crate) fn long(messages: u64) -> History {
    let mut history = Maker::new(0).history;
    history.groups.truncate(1);
    history.forwards.clear();
    let owner = Owner {
        group: 0,
        consumer: 1,
        epoch: 1,
    };
    for message in 0..messages {
        let offset = message;
        history.logs[IN].messages.push((offset, message));
        history.events.extend([
            Event::Intent {
                producer: 0,
                message,
                unit: None,
            },
            Event::Acked {
                message,
                place: Some((IN, offset)),
            },
            Event::Delivered {
                owner,
                offset,
                message,
            },
            Event::Asked {
                owner,
                offset,
                through: offset % 2 == 0,
            },
            Event::Committed { owner, offset },
            Event::Seen(Seen {
                group: 0,
                epoch: 1,
                position: offset + 1,
                acked: Vec::new(),
            }),
        ]);
    }
    history
}

struct Maker {
    random: Random,
    history: History,
    messages: u64,
    units: u64,
    members: Vec<Member>,
    consumers: u32,
    /// In doubt, and on their way.
    late: Vec<(usize, u64)>,
}

/// A group as it stands, and who consumes for it.
struct Member {
    log: usize,
    owner: Owner,
    done: BTreeSet<u64>,
    start: u64,
    /// Under this lease: what was delivered up to where, and is neither done nor to be retried.
    next: u64,
    held: Vec<u64>,
    waiting: Vec<u64>,
    /// What the owners before still hold.
    zombies: Vec<(Owner, u64)>,
}

impl Member {
    fn position(&self) -> u64 {
        (self.start..)
            .find(|offset| !self.done.contains(offset))
            .expect("some offset")
    }
}

impl Maker {
    fn new(seed: u64) -> Self {
        let log = |name: &str, is_forwarded| Log {
            name: name.to_owned(),
            is_forwarded,
            ..Log::default()
        };
        let group = |name: &str, log, start| Group {
            name: name.to_owned(),
            log,
            start,
        };
        let forward = |group, to, is_whole| Forward {
            groups: vec![group],
            to: vec![to],
            is_whole,
        };
        let history = History {
            events: Vec::new(),
            logs: vec![
                log("in", false),
                log("other", false),
                log("out", true),
                log("dead", true),
            ],
            groups: vec![
                group("work", IN, 0),
                group("copy", IN, 0),
                group("late", OTHER, 2),
            ],
            forwards: vec![forward(1, OUT, true), forward(0, DEAD, false)],
            ..History::default()
        };
        let members = history.groups.iter().enumerate().map(|(number, group)| {
            let owner = Owner {
                group: number,
                consumer: 0,
                epoch: 0,
            };
            Member {
                log: group.log,
                owner,
                done: BTreeSet::new(),
                start: group.start,
                next: group.start,
                held: Vec::new(),
                waiting: Vec::new(),
                zombies: Vec::new(),
            }
        });
        Self {
            random: Random::new(seed),
            messages: 0,
            units: 0,
            members: members.collect(),
            history,
            consumers: 0,
            late: Vec::new(),
        }
    }

    fn push(&mut self, event: Event) {
        self.history.events.push(event);
    }

    fn step(&mut self) {
        let number = self.random.below(self.members.len());
        match self.random.below(20) {
            0..3 => self.send(),
            3 => self.append(),
            4 => self.land(),
            5 => self.take_over(number),
            6 => self.look(number),
            7 => self.zombie(number),
            8 => self.again(number),
            9..14 => self.deliver(number),
            _ => self.say(number),
        }
    }

    fn intent(&mut self, unit: Option<u64>) -> u64 {
        self.messages += 1;
        let message = self.messages;
        let producer = self.random.below(3) as u32;
        self.push(Event::Intent {
            producer,
            message,
            unit,
        });
        message
    }

    fn write(&mut self, log: usize, message: u64) -> (usize, u64) {
        let messages = &mut self.history.logs[log].messages;
        let offset = messages.len() as u64;
        messages.push((offset, message));
        (log, offset)
    }

    fn send(&mut self) {
        let message = self.intent(None);
        let log = self.random.below(2);
        match self.random.below(8) {
            0 => self.push(Event::Failed { message }),
            1 => {
                self.push(Event::InDoubt { message });
                if self.random.below(2) == 0 {
                    self.late.push((log, message));
                }
            }
            _ => {
                self.write(log, message);
                self.push(Event::Acked {
                    message,
                    place: None,
                });
            }
        }
    }

    fn append(&mut self) {
        self.units += 1;
        let unit = Some(self.units);
        let messages: Vec<u64> = (0..2 + self.random.below(3))
            .map(|_| self.intent(unit))
            .collect();
        if self.random.below(4) == 0 {
            return messages
                .into_iter()
                .for_each(|message| self.push(Event::InDoubt { message }));
        }
        for message in messages {
            let log = self.random.below(2);
            let place = Some(self.write(log, message));
            self.push(Event::Acked { message, place });
        }
    }

    fn land(&mut self) {
        if let Some((log, message)) = self.late.pop() {
            self.write(log, message);
        }
    }

    fn take_over(&mut self, number: usize) {
        self.consumers += 1;
        let consumer = self.consumers;
        let member = &mut self.members[number];
        let before = member.owner;
        member.owner.epoch += 1;
        member.owner.consumer = consumer;
        let held = std::mem::take(&mut member.held);
        member
            .zombies
            .extend(held.into_iter().map(|offset| (before, offset)));
        member.waiting.clear();
        member.next = member.position();
        let owner = member.owner;
        self.push(Event::Active(owner));
    }

    fn deliver(&mut self, number: usize) {
        if self.members[number].owner.epoch == 0 {
            self.take_over(number);
        }
        let member = &mut self.members[number];
        while member.done.contains(&member.next) {
            member.next += 1;
        }
        let (owner, offset) = (member.owner, member.next);
        let messages = &self.history.logs[member.log].messages;
        if let Some((_, message)) = messages.get(offset as usize).copied() {
            member.next += 1;
            member.held.push(offset);
            self.push(Event::Delivered {
                owner,
                offset,
                message,
            });
        }
    }

    /// What was to be retried comes again.
    fn again(&mut self, number: usize) {
        if let Some(offset) = self.members[number].waiting.pop() {
            self.redeliver(number, offset);
        }
    }

    fn redeliver(&mut self, number: usize, offset: u64) {
        let member = &mut self.members[number];
        if member.done.contains(&offset) {
            return;
        }
        member.held.push(offset);
        let (owner, log) = (member.owner, member.log);
        let message = self.history.logs[log].messages[offset as usize].1;
        self.push(Event::Delivered {
            owner,
            offset,
            message,
        });
    }

    /// A verdict on what is held. The group that copies does so in order.
    fn say(&mut self, number: usize) {
        let member = &mut self.members[number];
        if member.held.is_empty() {
            return;
        }
        let owner = member.owner;
        if number == 1 {
            let offset = member.held.remove(0);
            member.done.insert(offset);
            return self.copy(owner, offset, OUT);
        }
        let at = self.random.below(member.held.len());
        let offset = member.held.swap_remove(at);
        if member.done.contains(&offset) {
            return self.commit(number, offset, 9);
        }
        match self.random.below(10) {
            0 => {
                member.waiting.push(offset);
                self.push(Event::Retried { owner, offset });
            }
            // Somebody has to come again for it.
            1 => member.zombies.push((owner, offset)),
            2 if number == 0 => {
                member.done.insert(offset);
                self.copy(owner, offset, DEAD);
            }
            kind => self.commit(number, offset, kind),
        }
    }

    fn commit(&mut self, number: usize, offset: u64, kind: usize) {
        let member = &mut self.members[number];
        let owner = member.owner;
        let through = kind == 3;
        let is_written = kind != 4;
        if is_written {
            member.done.insert(offset);
        }
        if through {
            let waiting = &member.waiting;
            let before = (member.start..offset).filter(|before| !waiting.contains(before));
            member.done.extend(before);
        }
        self.push(Event::Asked {
            owner,
            offset,
            through,
        });
        self.push(match kind {
            4 | 5 => Event::Unknown { owner, offset },
            _ => Event::Committed { owner, offset },
        });
    }

    fn copy(&mut self, owner: Owner, offset: u64, to: usize) {
        let log = self.members[owner.group].log;
        let message = self.history.logs[log].messages[offset as usize].1;
        self.push(Event::Asked {
            owner,
            offset,
            through: false,
        });
        self.write(to, message);
    }

    /// One that lost its lease says that something is done.
    fn zombie(&mut self, number: usize) {
        let member = &mut self.members[number];
        let Some((owner, offset)) = member.zombies.pop() else {
            return;
        };
        if owner == member.owner {
            // It was dropped.
            return self.redeliver(number, offset);
        }
        self.push(Event::Asked {
            owner,
            offset,
            through: false,
        });
        self.push(Event::Fenced { owner, offset });
    }

    fn look(&mut self, number: usize) {
        let member = &self.members[number];
        let position = member.position();
        let acked = member.done.range(position..).map(|at| *at..*at + 1);
        let seen = Seen {
            group: number,
            epoch: member.owner.epoch,
            position,
            acked: acked.collect(),
        };
        self.push(Event::Seen(seen));
    }

    fn finish(mut self) -> History {
        for number in 0..self.members.len() {
            self.take_over(number);
            let log = self.members[number].log;
            for _ in 0..self.history.logs[log].messages.len() {
                self.deliver(number);
            }
            for offset in std::mem::take(&mut self.members[number].held) {
                if number == 1 {
                    self.members[number].done.insert(offset);
                    let owner = self.members[number].owner;
                    self.copy(owner, offset, OUT);
                } else {
                    self.commit(number, offset, 9);
                }
            }
            self.look(number);
        }
        self.history
    }
}
