//! What must hold of a round, whatever happened in it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::crew::{COPIERS, WORKERS};
use crate::nemesis::{Faults, Kind};
use crate::process_support::check::{Story, Summary};
use crate::process_support::history::{Event, What};
use crate::process_support::ledger::Write;
use crate::tag::Tag;
use crate::writing::SOMEWHERE;

/// All that is known of a round at its end. Everything before the offset `base` was done before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) base: u64,
    /// What is in the log, with its offset.
    pub(crate) log: Vec<(u64, Tag)>,
    /// What was forwarded.
    pub(crate) copies: Vec<(u64, Tag)>,
    pub(crate) events: Vec<Event>,
    /// The ledgers of the groups.
    pub(crate) workers: Vec<Write>,
    pub(crate) copiers: Vec<Write>,
    /// The most that one worker is at.
    pub(crate) in_flight: usize,
    /// The last message of each writer before this round.
    pub(crate) last: HashMap<u32, u32>,
}

/// What happened, when all is as it should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) messages: u64,
    pub(crate) acked: u64,
    pub(crate) workers: Summary,
    /// Owners of the group that forwards.
    pub(crate) copy_owners: u64,
    /// Appends that were refused because a lease was lost.
    pub(crate) refused: u64,
    /// Errors that the processes told of, and got over.
    pub(crate) errors: u64,
    /// How often a process told an earlier time than before.
    pub(crate) jumps: u64,
    /// The longest that the group stood still, by the fault that came before.
    pub(crate) stood_still: BTreeMap<Kind, Duration>,
}

impl Seen {
    /// Says what is wrong, if anything is.
    pub(crate) fn check(&self, faults: &Faults) -> Result<Findings, String> {
        self.check_logs()?;
        self.check_writers()?;
        let acked = self.check_acked()?;
        self.check_bodies()?;
        let story = self.story(WORKERS, &self.workers);
        let workers = story.check()?;
        let copiers = self.story(COPIERS, &self.copiers);
        copiers.check_ledger()?;
        let of = |what| self.events.iter().filter(move |event| event.what == what);
        if of(What::Lost).count() + of(What::Failed).count() > 0 {
            return Err("a loss or a commit that failed was told, and nothing was lost".to_owned());
        }
        Ok(Findings {
            messages: self.log.len() as u64,
            acked,
            workers,
            copy_owners: copiers.writes.last().map_or(0, |last| last.epoch),
            refused: of(What::Fenced).filter(|it| it.group != WORKERS).count() as u64,
            errors: of(What::Error).count() as u64,
            jumps: jumps_back(&self.events),
            stood_still: stood_still(&story.events, faults),
        })
    }

    /// The streams, whoever wrote them: no gaps, nothing torn, and copies that are what they copy.
    pub(crate) fn check_logs(&self) -> Result<(), String> {
        self.check_places("in", &self.log)?;
        self.check_places("out", &self.copies)?;
        self.check_appends()?;
        self.check_copies()
    }

    fn check_places(&self, stream: &str, log: &[(u64, Tag)]) -> Result<(), String> {
        let mut places = (self.base..).zip(log);
        match places.find(|(place, (offset, _))| place != offset) {
            Some((place, (offset, _))) => {
                Err(format!("{stream} has {offset} where {place} should be"))
            }
            None => Ok(()),
        }
    }

    /// Each writer's messages are there once, in order, and without gaps.
    fn check_writers(&self) -> Result<(), String> {
        let mut last = self.last.clone();
        for (offset, tag) in &self.log {
            let before = last.insert(tag.writer, tag.number).unwrap_or(0);
            let wrong = match tag.number {
                number if number == before + 1 => continue,
                number if number <= before => "is in the log twice, or out of order",
                _ => "is in the log without those before it",
            };
            return Err(format!("{tag:?}, at {offset}, {wrong}"));
        }
        Ok(())
    }

    /// What was appended in one call is there together.
    fn check_appends(&self) -> Result<(), String> {
        let next = |tag: &Tag| Tag {
            number: tag.number + 1,
            place: tag.place + 1,
            ..*tag
        };
        let mut due = None;
        for (offset, tag) in &self.log {
            let fits = match due {
                Some(due) => *tag == due,
                None => tag.place == 0,
            };
            if !fits {
                return Err(format!("a call was torn at {offset}: {tag:?}"));
            }
            due = (tag.place + 1 < tag.of).then(|| next(tag));
        }
        match due {
            Some(due) => Err(format!("a call was torn at the end: {due:?}")),
            None => Ok(()),
        }
    }

    /// All that was acknowledged is in the log, where the writer was told that it is.
    fn check_acked(&self) -> Result<u64, String> {
        let offsets = self.log.iter().map(|(offset, tag)| (tag.id(), *offset));
        let offsets: HashMap<u64, u64> = offsets.collect();
        let mut acked = 0;
        for event in self.events.iter().filter(|event| event.what == What::Sent) {
            match offsets.get(&event.message) {
                None => return Err(format!("acknowledged, and lost: {event:?}")),
                Some(offset) if ![SOMEWHERE, *offset].contains(&event.offset) => {
                    return Err(format!("it is at {offset}, not there: {event:?}"));
                }
                Some(_) => acked += 1,
            }
        }
        Ok(acked)
    }

    /// What was forwarded is what was there to forward: once, and in order.
    fn check_copies(&self) -> Result<(), String> {
        let different = |((_, tag), (_, copy)): &(&(u64, Tag), &(u64, Tag))| tag != copy;
        if let Some(((offset, tag), (_, copy))) = self.log.iter().zip(&self.copies).find(different)
        {
            return Err(format!("at {offset} is {tag:?}, and its copy is {copy:?}"));
        }
        match (self.log.len(), self.copies.len()) {
            (all, copied) if all == copied => Ok(()),
            (all, copied) => Err(format!("of {all} messages there are {copied} copies")),
        }
    }

    /// What came was what is in the log at that place.
    fn check_bodies(&self) -> Result<(), String> {
        for event in self.events.iter().filter(|event| is_of_message(event)) {
            let place = event.offset.checked_sub(self.base);
            let tag = place.and_then(|place| self.log.get(place as usize));
            if tag.is_none_or(|(_, tag)| tag.id() != event.message) {
                return Err(format!("that is not in the log, but {tag:?}: {event:?}"));
            }
        }
        Ok(())
    }

    /// What a worker was told is done came to nobody afterwards, in that epoch or a later one: a zombie
    /// that was stopped while it got the message goes on where it was. The ledger is not asked: it may
    /// have gone back.
    pub(crate) fn check_done(&self) -> Result<(), String> {
        let mut done = HashMap::new();
        for event in self.events.iter().filter(|event| is_of_message(event)) {
            if event.what == What::Committed {
                done.insert((event.offset, event.message), (event.at, event.epoch));
            }
        }
        let again = |event: &&Event| {
            let done = done.get(&(event.offset, event.message));
            event.what == What::Delivered
                && done.is_some_and(|(at, epoch)| *at < event.at && *epoch <= event.epoch)
        };
        match self.events.iter().find(again) {
            Some(event) => Err(format!("it was done, and came again: {event:?}")),
            None => Ok(()),
        }
    }

    /// Of a group, with offsets that begin at 0.
    pub(crate) fn story(&self, group: &str, writes: &[Write]) -> Story {
        let mut events = self.events.clone();
        events.retain(|event| event.group == group);
        for event in events.iter_mut().filter(|event| is_of_message(event)) {
            event.offset -= self.base;
        }
        let mut writes = writes.to_vec();
        for write in &mut writes {
            write.position = write.position.saturating_sub(self.base);
            for (from, to) in &mut write.acked {
                *from = from.saturating_sub(self.base);
                *to = to.saturating_sub(self.base);
            }
        }
        Story {
            events,
            writes,
            end: self.log.len() as u64,
            in_flight: self.in_flight,
            sends: Vec::new(),
        }
    }
}

/// Whether it says something of a message that a worker got.
pub(crate) fn is_of_message(event: &Event) -> bool {
    let words = [What::Delivered, What::Committed, What::Fenced, What::Failed];
    event.group == WORKERS && words.contains(&event.what)
}

fn jumps_back(events: &[Event]) -> u64 {
    let mut last = HashMap::new();
    let goes_back = |event: &&Event| last.insert(event.process, event.at) > Some(event.at);
    events.iter().filter(goes_back).count() as u64
}

/// The longest between two commits, by the kind of the last fault before the second.
fn stood_still(events: &[Event], faults: &Faults) -> BTreeMap<Kind, Duration> {
    let commits = events.iter().filter(|it| it.what == What::Committed);
    let mut commits: Vec<Duration> = commits.map(|event| event.at).collect();
    commits.sort();
    let mut longest: BTreeMap<Kind, Duration> = BTreeMap::new();
    for pair in commits.windows(2) {
        let before = faults.0.iter().rfind(|(at, _)| *at < pair[1]);
        if let Some((_, kind)) = before {
            let most = longest.entry(*kind).or_default();
            *most = (*most).max(pair[1] - pair[0]);
        }
    }
    longest
}
