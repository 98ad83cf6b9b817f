//! The contract once more, as the most naive storage that keeps it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;

use crate::storage::{
    Append, Appended, Claim, Group, GroupState, Id, Lease, Partition, Progress, Ranges, Row,
    Verdicts,
};

#[derive(Default)]
pub(super) struct Model {
    pub(super) logs: BTreeMap<Partition, Log>,
    pub(super) groups: BTreeMap<Group, Member>,
    ids: HashMap<Id, Appended>,
}

/// All batches that ever were, and where those that are left begin.
#[derive(Default)]
pub(super) struct Log {
    pub(super) start: u64,
    pub(super) batches: Vec<(Range<u64>, Vec<Bytes>)>,
}

impl Log {
    pub(super) fn end(&self) -> u64 {
        self.batches.last().map_or(0, |(offsets, _)| offsets.end)
    }

    /// The batches that a read from this offset may begin with.
    pub(super) fn from(&self, from: u64) -> impl Iterator<Item = &(Range<u64>, Vec<Bytes>)> {
        let from = from.max(self.start);
        self.batches
            .iter()
            .filter(move |(offsets, _)| offsets.end > from)
    }

    fn append(&mut self, row: &Row) -> u64 {
        let base = self.end();
        let bodies = (0..row.records.len()).map(|index| row.records.message(index).body().clone());
        let offsets = base..base + u64::from(row.records.len());
        self.batches.push((offsets, bodies.collect()));
        base
    }
}

/// A group. Epoch and generation only have to grow, so they are learned from the storage.
#[derive(Default)]
pub(super) struct Member {
    pub(super) owner: Option<Id>,
    pub(super) epoch: u64,
    generation: u64,
    /// How the last call may have changed the generation.
    generation_grew: Grew,
    epoch_grew: bool,
    done: BTreeSet<u64>,
    attempts: BTreeMap<u64, u32>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Grew {
    #[default]
    No,
    Perhaps,
    Yes,
}

impl Member {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    fn holds(&self, lease: &Lease) -> bool {
        self.owner == Some(lease.owner) && self.epoch == lease.epoch
    }

    fn write(&mut self, done: &Ranges) {
        self.done.extend(done.iter().flatten());
        self.generation_grew = Grew::Yes;
    }

    /// Nobody has the lease any more. With a position, the group goes on there.
    pub(super) fn reset(&mut self, position: Option<u64>) {
        if let Some(position) = position {
            self.done = (0..position).collect();
            self.attempts.clear();
        }
        self.owner = None;
        self.epoch_grew = true;
        self.generation_grew = Grew::Yes;
    }

    fn first_not_done(&self) -> u64 {
        (0..)
            .find(|at| !self.done.contains(at))
            .expect("some offset")
    }

    /// Compares with what the storage says, and learns its epoch and generation.
    fn check(&mut self, log: &Log, state: &GroupState) -> Result<(), String> {
        let same = |what: &str, holds: bool| match holds {
            true => Ok(()),
            false => Err(format!("{what}, but the storage says {state:?}")),
        };
        same(
            &format!("owner {:?}", self.owner),
            state.owner == self.owner,
        )?;
        let known = self.epoch;
        same(
            &format!("epoch after {known}, grown: {}", self.epoch_grew),
            (state.epoch > known) == self.epoch_grew && state.epoch >= known,
        )?;
        let known = self.generation;
        let generation = match self.generation_grew {
            Grew::No => state.generation == known,
            Grew::Perhaps => state.generation >= known,
            Grew::Yes => state.generation > known,
        };
        same(&format!("generation after {known}"), generation)?;
        same(
            &format!("a log of {}..{}", log.start, log.end()),
            state.bounds == (log.start..log.end()),
        )?;
        // What was trimmed away counts for nothing.
        for at in log.start..log.end() {
            let done = self.done.contains(&at);
            same(
                &format!("{at} done: {done}"),
                state.progress.is_done(at) == done,
            )?;
        }
        let first = self.first_not_done();
        if first >= log.start {
            let expected = self.progress();
            same(&format!("{expected:?}"), state.progress == expected)?;
        }
        for at in (log.start..log.end()).filter(|at| !self.done.contains(at)) {
            let count = self.attempts.get(&at).copied().unwrap_or(0);
            let stored = super::support::attempts(state, at);
            same(&format!("{count} attempts of {at}"), stored == count)?;
        }
        (self.epoch, self.generation) = (state.epoch, state.generation);
        (self.epoch_grew, self.generation_grew) = (false, Grew::No);
        Ok(())
    }

    fn progress(&self) -> Progress {
        let position = self.first_not_done();
        let mut progress = Progress::at(position);
        for at in self.done.range(position..) {
            progress.insert(*at..*at + 1);
        }
        progress
    }
}

impl Model {
    pub(super) fn create_group(&mut self, group: &Group, position: u64) {
        let member = Member {
            done: (0..position).collect(),
            ..Member::default()
        };
        self.groups.entry(group.clone()).or_insert(member);
    }

    /// The answer of the second time, too: what is written is known from then on.
    pub(super) fn append(&mut self, append: &Append) -> Appended {
        if let Some(known) = self.ids.get(&append.id) {
            return known.clone();
        }
        let is_written = |id| matches!(self.ids.get(&id), Some(Appended::Known(_)));
        if append.after.is_some_and(|after| !is_written(after)) {
            return Appended::Early;
        }
        let fenced: Vec<usize> = (0..append.commits.len())
            .filter(|index| {
                let lease = &append.commits[*index].0;
                !self.groups[&lease.group].holds(lease)
            })
            .collect();
        if !fenced.is_empty() {
            return Appended::Fenced(fenced);
        }
        for (lease, done) in &append.commits {
            self.member(&lease.group).write(done);
        }
        let rows = append.rows.iter();
        let offsets = rows.map(|row| {
            self.logs
                .entry(row.partition.clone())
                .or_default()
                .append(row)
        });
        let written = Appended::Known(offsets.collect());
        self.ids.insert(append.id, written.clone());
        written
    }

    pub(super) fn settle(&mut self, append: &Append) -> Option<Vec<u64>> {
        match self.ids.entry(append.id).or_insert(Appended::Refused) {
            Appended::Known(offsets) => Some(offsets.clone()),
            _ => None,
        }
    }

    /// Whether the claim succeeds.
    pub(super) fn claim(&mut self, claim: &Claim) -> bool {
        let log = &self.logs[&claim.group.partition];
        let (start, end) = (log.start, log.end());
        let member = self.member(&claim.group);
        let seen = (member.epoch, member.generation);
        let over = claim
            .over
            .filter(|over| (over.epoch, over.generation) == seen);
        match member.owner {
            Some(owner) if owner == claim.owner => {
                member.generation_grew = Grew::Perhaps;
                return true;
            }
            Some(_) => {
                let Some(over) = over else { return false };
                if over.counts_attempt
                    && let Some(first) = (start..end).find(|at| !member.done.contains(at))
                {
                    *member.attempts.entry(first).or_default() += 1;
                }
            }
            None => {}
        }
        member.owner = Some(claim.owner);
        member.epoch_grew = true;
        member.generation_grew = Grew::Yes;
        true
    }

    /// Whether the commit is accepted.
    pub(super) fn commit(&mut self, lease: &Lease, verdicts: &Verdicts) -> bool {
        let member = self.member(&lease.group);
        let holds = member.holds(lease);
        if holds {
            member.write(&verdicts.done);
            for (at, count) in &verdicts.attempts {
                let stored = member.attempts.entry(*at).or_default();
                *stored = (*stored).max(*count);
            }
        }
        holds
    }

    pub(super) fn release(&mut self, lease: &Lease) {
        let member = self.member(&lease.group);
        if member.holds(lease) {
            member.owner = None;
            member.generation_grew = Grew::Yes;
        }
    }

    pub(super) fn trim(&mut self, partition: &Partition, before: u64) -> u64 {
        let log = self.logs.entry(partition.clone()).or_default();
        let gone = log
            .batches
            .iter()
            .rev()
            .find(|(offsets, _)| offsets.end <= before);
        log.start = log.start.max(gone.map_or(0, |(offsets, _)| offsets.end));
        log.start
    }

    /// Compares all groups, in order of their names, with what the storage says.
    pub(super) fn check(&mut self, states: &[Option<GroupState>]) -> Result<(), String> {
        for ((group, member), state) in self.groups.iter_mut().zip(states) {
            let state = state.as_ref().ok_or(format!("{group} is not known"))?;
            let log = &self.logs[&group.partition];
            member
                .check(log, state)
                .map_err(|text| format!("{group}: {text}"))?;
        }
        Ok(())
    }

    pub(super) fn member(&mut self, group: &Group) -> &mut Member {
        self.groups.get_mut(group).expect("a group of the model")
    }
}
