//! What must hold of groups and those who consume for them.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::check::{Context, Rule};
use super::{Event, Owner, Seen};

pub(super) fn check(context: &mut Context<'_>) {
    let history = context.history;
    let mut groups: Vec<State> = (0..history.groups.len()).map(State::new).collect();
    for event in &history.events {
        if let Some(number) = event.group() {
            groups[number].take(context, event);
        }
    }
    for group in groups {
        group.finish(context);
    }
}

struct State {
    number: usize,
    /// Somebody called them done, whatever became of that.
    asked: HashSet<u64>,
    /// Below this all are called done.
    asked_below: u64,
    /// Offsets of commits that are durable, and their epochs.
    committed: HashMap<u64, u64>,
    /// And the newest of them, since somebody looked.
    unseen: Vec<u64>,
    delivered: HashSet<u64>,
    /// Delivered, and no commit of it is durable.
    open: BTreeSet<u64>,
    epochs: HashMap<u64, Epoch>,
    newest_epoch: u64,
    /// The epoch that each consumer had last.
    consumers: HashMap<u32, u64>,
    /// Commits that were asked for, by epoch and offset.
    commits: HashMap<(u64, u64), Asked>,
    /// How often each was called done, but for what was refused without a doubt.
    claims: HashMap<u64, usize>,
    /// It was refused, and has not come again.
    refused: BTreeSet<u64>,
    seen: Option<Seen>,
}

/// A commit when it was asked for.
struct Asked {
    newest_epoch: u64,
    /// What it is about.
    done: Vec<u64>,
}

/// What happened under one lease.
#[derive(Default)]
struct Epoch {
    consumer: Option<u32>,
    delivered: HashSet<u64>,
    last: Option<u64>,
    /// To come again.
    waiting: HashSet<u64>,
}

impl State {
    fn new(number: usize) -> Self {
        Self {
            number,
            asked: HashSet::new(),
            asked_below: 0,
            committed: HashMap::new(),
            unseen: Vec::new(),
            delivered: HashSet::new(),
            open: BTreeSet::new(),
            epochs: HashMap::new(),
            newest_epoch: 0,
            consumers: HashMap::new(),
            commits: HashMap::new(),
            claims: HashMap::new(),
            refused: BTreeSet::new(),
            seen: None,
        }
    }

    fn take(&mut self, context: &mut Context<'_>, event: &Event) {
        match event {
            Event::Active(owner) => self.own(context, *owner, true),
            Event::Delivered {
                owner,
                offset,
                message,
            } => {
                self.own(context, *owner, false);
                self.delivered(context, *owner, *offset, *message);
            }
            Event::Asked {
                owner,
                offset,
                through,
            } => self.asked(*owner, *offset, *through),
            Event::Committed { owner, offset } => self.committed(context, *owner, *offset),
            Event::Refused { owner, offset } => self.refused(*owner, *offset),
            Event::Retried { owner, offset } => {
                let epoch = self.epochs.entry(owner.epoch).or_default();
                epoch.waiting.insert(*offset);
            }
            Event::Seen(seen) => self.seen(context, seen),
            _ => {}
        }
    }

    fn found(&self, context: &mut Context<'_>, rule: Rule, text: &str) {
        let name = &context.history.groups[self.number].name;
        context.found(rule, format!("{name}: {text}"));
    }

    /// Whether somebody called it done, or it was before the group.
    fn is_asked(&self, context: &Context<'_>, offset: u64) -> bool {
        let group = &context.history.groups[self.number];
        let is_moved = || {
            let message = context.message(group.log, offset);
            message.is_some_and(|message| context.moved.contains(&(self.number, message)))
        };
        offset < group.start.max(self.asked_below) || self.asked.contains(&offset) || is_moved()
    }

    fn own(&mut self, context: &mut Context<'_>, owner: Owner, is_new: bool) {
        let Owner {
            consumer, epoch, ..
        } = owner;
        let other = *self
            .epochs
            .entry(epoch)
            .or_default()
            .consumer
            .get_or_insert(consumer);
        if other != consumer {
            let text = format!("epoch {epoch} is of {other} and of {consumer}");
            self.found(context, Rule::TwoOwners, &text);
        }
        let before = self.consumers.insert(consumer, epoch);
        if before > Some(epoch) || (is_new && before == Some(epoch)) {
            let text = format!("{consumer} has epoch {epoch} after {before:?}");
            self.found(context, Rule::EpochBack, &text);
        }
        self.newest_epoch = self.newest_epoch.max(epoch);
    }

    fn delivered(&mut self, context: &mut Context<'_>, owner: Owner, offset: u64, message: u64) {
        let log = context.history.groups[self.number].log;
        let stored = context.message(log, offset);
        if stored != Some(message) && offset >= context.history.logs[log].start {
            let text = format!("{message} came from {offset}, where {stored:?} is");
            self.found(context, Rule::WrongPlace, &text);
        }
        match self.committed.get(&offset) {
            Some(epoch) => {
                let clocks = &context.history.with_wrong_clocks;
                if *epoch <= owner.epoch || !clocks.contains(&owner.consumer) {
                    let text = format!("{offset} came under {} and was done", owner.epoch);
                    self.found(context, Rule::DeliveredAfterCommit, &text);
                }
            }
            None => drop(self.open.insert(offset)),
        }
        self.delivered.insert(offset);
        self.refused.remove(&offset);
        let epoch = self.epochs.entry(owner.epoch).or_default();
        epoch.waiting.remove(&offset);
        if !epoch.delivered.insert(offset) {
            return;
        }
        let last = epoch.last;
        epoch.last = last.max(Some(offset));
        if last > Some(offset) {
            let text = format!("{offset} came first after {last:?}, under {}", owner.epoch);
            return self.found(context, Rule::OutOfOrder, &text);
        }
        let from = last.map_or(self.low_water(context), |last| last + 1);
        let skipped = (from..offset).find(|between| !self.is_asked(context, *between));
        if let Some(skipped) = skipped {
            let text = format!("{skipped} was jumped over under epoch {}", owner.epoch);
            self.found(context, Rule::Skipped, &text);
        }
    }

    /// All below this are called done.
    fn low_water(&mut self, context: &Context<'_>) -> u64 {
        let group = &context.history.groups[self.number];
        let start = group.start.max(context.history.logs[group.log].start);
        self.asked_below = self.asked_below.max(start);
        while self.is_asked(context, self.asked_below) {
            self.asked_below += 1;
        }
        self.asked_below
    }

    fn asked(&mut self, owner: Owner, offset: u64, through: bool) {
        let mut done = vec![offset];
        if through {
            self.asked_below = self.asked_below.max(offset + 1);
            let waiting = &self.epochs.entry(owner.epoch).or_default().waiting;
            let before = self.open.range(..offset);
            done.extend(before.filter(|before| !waiting.contains(before)));
        }
        self.asked.insert(offset);
        for offset in &done {
            *self.claims.entry(*offset).or_default() += 1;
        }
        let newest_epoch = self.newest_epoch;
        let asked = Asked { newest_epoch, done };
        self.commits.insert((owner.epoch, offset), asked);
    }

    fn refused(&mut self, owner: Owner, offset: u64) {
        let Some(asked) = self.commits.remove(&(owner.epoch, offset)) else {
            return;
        };
        for offset in asked.done {
            if let Some(claims) = self.claims.get_mut(&offset) {
                *claims -= 1;
            }
        }
        self.refused.insert(offset);
    }

    fn committed(&mut self, context: &mut Context<'_>, owner: Owner, offset: u64) {
        let Some(asked) = self.commits.remove(&(owner.epoch, offset)) else {
            return;
        };
        if asked.newest_epoch > owner.epoch {
            let text = format!(
                "a commit of {offset} under epoch {} was accepted, and epoch {} was there before",
                owner.epoch, asked.newest_epoch
            );
            self.found(context, Rule::ZombieCommit, &text);
        }
        for offset in asked.done {
            self.open.remove(&offset);
            if self.committed.insert(offset, owner.epoch).is_none() {
                self.unseen.push(offset);
            }
        }
    }

    fn seen(&mut self, context: &mut Context<'_>, seen: &Seen) {
        let mut from = 0;
        if let Some(before) = self.seen.take() {
            if seen.epoch < before.epoch {
                let text = format!("epoch {} after {}", seen.epoch, before.epoch);
                self.found(context, Rule::EpochBack, &text);
            }
            let mut acked = before.acked.iter().cloned().flatten();
            if seen.position < before.position || acked.any(|offset| !seen.is_done(offset)) {
                let text = format!("{before:?} became {seen:?}");
                self.found(context, Rule::PositionBack, &text);
            }
            from = before.position;
        }
        for offset in std::mem::take(&mut self.unseen) {
            if !seen.is_done(offset) {
                let text = format!("{offset} was committed, but {seen:?}");
                self.found(context, Rule::LostCommit, &text);
            }
        }
        let acked = seen.acked.iter().cloned().flatten();
        let unasked = (from..seen.position)
            .chain(acked)
            .find(|offset| !self.is_asked(context, *offset));
        if let Some(unasked) = unasked {
            let text = format!("{unasked} is done, and nobody said so");
            self.found(context, Rule::DoneUnasked, &text);
        }
        self.newest_epoch = self.newest_epoch.max(seen.epoch);
        self.seen = Some(seen.clone());
    }

    fn finish(self, context: &mut Context<'_>) {
        let group = &context.history.groups[self.number];
        let log = &context.history.logs[group.log];
        let position = self.seen.as_ref().map(|seen| seen.position);
        if position.is_some_and(|position| position < log.end()) {
            let text = format!("it is at {position:?} of {}", log.end());
            self.found(context, Rule::Stuck, &text);
        }
        let seen = self.seen.as_ref();
        let is_done = |offset: &u64| seen.is_some_and(|seen| seen.is_done(*offset));
        let nobody = |offset: &u64| self.claims.get(offset).is_none_or(|claims| *claims == 0);
        let denied = |offset: &u64| {
            let message = context.message(group.log, *offset);
            is_done(offset)
                && nobody(offset)
                && !message.is_some_and(|message| context.moved.contains(&(self.number, message)))
        };
        if let Some(denied) = self.refused.iter().find(|offset| denied(offset)) {
            let text = format!("{denied} is done, which was denied, and never came again");
            self.found(context, Rule::DoneThoughRefused, &text);
        }
        let start = group.start.max(log.start);
        let never = (start..log.end()).find(|offset| {
            let message = context.message(group.log, *offset);
            let is_moved = |message| context.moved.contains(&(self.number, message));
            !self.delivered.contains(offset) && !message.is_some_and(is_moved)
        });
        if let Some(never) = never {
            self.found(context, Rule::Undelivered, &format!("{never} never came"));
        }
    }
}
