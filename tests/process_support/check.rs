//! What must hold of all that the consumers of a group said, and of the ledger.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::history::{Event, What};
use super::ledger::Write;

/// The history of one group.
#[derive(Clone, Debug)]
pub struct Story {
    /// Of this group only.
    pub events: Vec<Event>,
    pub writes: Vec<Write>,
    /// The end of the log, all of which is done.
    pub end: u64,
    /// The most that one consumer works on at once.
    pub in_flight: usize,
    /// How long it took to write each message.
    pub sends: Vec<Duration>,
}

/// What happened in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub messages: u64,
    /// Epochs.
    pub owners: u64,
    /// Commits that were refused.
    pub fenced: u64,
    /// Deliveries beyond the first.
    pub again: u64,
    /// The most of them in one epoch.
    pub most_again: u64,
}

impl Story {
    /// Says what is wrong, if anything is.
    pub fn check(&self) -> Result<Summary, String> {
        self.check_ledger()?;
        self.check_owners()?;
        self.check_commits()?;
        let again = self.check_deliveries()?;
        let fenced = self
            .events
            .iter()
            .filter(|event| event.what == What::Fenced);
        Ok(Summary {
            messages: self.end,
            owners: self.writes.last().map_or(0, |last| last.epoch),
            fenced: fenced.count() as u64,
            again: again.values().sum(),
            most_again: again.values().copied().max().unwrap_or(0),
        })
    }

    /// The longest time between two commits.
    pub fn longest_gap(&self) -> Duration {
        let commits = self.events.iter().filter(|e| e.what == What::Committed);
        let mut times: Vec<Duration> = commits.map(|event| event.at).collect();
        times.sort();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_default()
    }

    /// Generations without gaps, epochs that grow with each owner, and nothing that is undone again.
    pub fn check_ledger(&self) -> Result<(), String> {
        let mut owners: HashMap<u64, &str> = HashMap::new();
        for pair in self.writes.windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            let what = format!(
                "generation {} after {}",
                after.generation, before.generation
            );
            if after.generation != before.generation + 1 {
                return Err(format!("a gap in the ledger: {what}"));
            }
            let mut acked = before.acked.iter().flat_map(|(from, to)| *from..*to);
            if after.position < before.position || !acked.all(|offset| after.is_done(offset)) {
                return Err(format!("a position went back: {what}"));
            }
            if after.epoch < before.epoch {
                return Err(format!("an epoch went back: {what}"));
            }
            if after.owner.is_empty() {
                continue;
            }
            let owner = *owners.entry(after.epoch).or_insert(&after.owner);
            if owner != after.owner {
                return Err(format!("two owners of epoch {}: {what}", after.epoch));
            }
        }
        match self.writes.last() {
            Some(last) if last.position == self.end => Ok(()),
            last => Err(format!("not all is done, of {}: {last:?}", self.end)),
        }
    }

    /// One consumer an epoch, and each with epochs that grow.
    fn check_owners(&self) -> Result<(), String> {
        let mut owners = HashMap::new();
        let mut last = HashMap::new();
        for event in self.events.iter().filter(|event| event.epoch > 0) {
            let who = (event.process, event.consumer);
            let owner = *owners.entry(event.epoch).or_insert(who);
            if owner != who {
                return Err(format!(
                    "epoch {} is of {owner:?} and of {who:?}",
                    event.epoch
                ));
            }
            if event.what == What::Active && last.insert(who, event.epoch) >= Some(event.epoch) {
                return Err(format!("{who:?} was active with {} before", event.epoch));
            }
        }
        Ok(())
    }

    /// Each that was acknowledged is in the ledger, once, and since an epoch of who said so.
    fn check_commits(&self) -> Result<(), String> {
        let done = self.done_in();
        let mut committed = HashSet::new();
        for event in &self.events {
            if event.what != What::Committed {
                continue;
            }
            let Event { offset, epoch, .. } = event;
            match done.get(offset) {
                Some(by) if by == epoch => {}
                Some(by) => {
                    return Err(format!(
                        "a commit of {offset} with epoch {epoch} was accepted; epoch {by} did it"
                    ));
                }
                None => return Err(format!("a commit of {offset} is lost")),
            }
            if !committed.insert(offset) {
                return Err(format!("{offset} was committed twice"));
            }
        }
        Ok(())
    }

    /// Each message comes, in order within an epoch, and again only if it was in flight. Gives how
    /// many came again, by epoch.
    fn check_deliveries(&self) -> Result<BTreeMap<u64, u64>, String> {
        let done = self.done_in();
        let mut delivered: HashSet<u64> = HashSet::new();
        let mut by_epoch: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for event in &self.events {
            let Event { offset, epoch, .. } = event;
            if event.what == What::Delivered {
                by_epoch.entry(*epoch).or_default().push(*offset);
            }
        }
        let mut again = BTreeMap::new();
        for (epoch, offsets) in by_epoch {
            if offsets.windows(2).any(|pair| pair[0] >= pair[1]) {
                return Err(format!("epoch {epoch} was not delivered in order"));
            }
            if let Some(offset) = offsets
                .iter()
                .find(|offset| done.get(offset) < Some(&epoch))
            {
                return Err(format!(
                    "{offset} was delivered with epoch {epoch}, and was done"
                ));
            }
            let repeated = offsets.iter().filter(|offset| !delivered.insert(**offset));
            let repeated = repeated.count();
            if repeated > self.in_flight {
                return Err(format!("epoch {epoch} repeats {repeated} messages"));
            }
            again.insert(epoch, repeated as u64);
        }
        match (0..self.end).find(|offset| !delivered.contains(offset)) {
            Some(lost) => Err(format!("{lost} never came")),
            None => Ok(again),
        }
    }

    /// The epoch in which each message was done.
    fn done_in(&self) -> HashMap<u64, u64> {
        let mut done = HashMap::new();
        let mut from = 0;
        for write in &self.writes {
            let acked = write.acked.iter().flat_map(|(from, to)| *from..*to);
            for offset in (from..write.position).chain(acked) {
                done.entry(offset).or_insert(write.epoch);
            }
            from = from.max(write.position);
        }
        done
    }
}
