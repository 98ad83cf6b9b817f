//! The rules, and what all of them need to know.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Event, Forward, History, forwards, groups, logs, streams};

/// What must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A message that was acknowledged is not in the log.
    Lost,
    /// A message is in the log twice.
    Doubled,
    /// Messages of one producer stand in another order than it sent them in.
    Reordered,
    /// A message stands before one that was acknowledged before it was sent.
    OutOfTime,
    /// Of the messages of one append some are in the log and some are not.
    Torn,
    /// A message is in the log whose append failed for certain.
    AbortedRead,
    /// A message that nobody sent, or that was delivered before somebody did.
    FromNowhere,
    /// A log without some offset.
    Gap,
    /// A message is not where it was said to be.
    WrongPlace,
    /// A message was jumped over that nobody had called done.
    Skipped,
    /// A message never came, also after all was healed.
    Undelivered,
    /// Under one lease, messages came in another order than they stand in.
    OutOfOrder,
    /// A message came again after a commit that was durable.
    DeliveredAfterCommit,
    /// A commit that was durable is not any more.
    LostCommit,
    /// A message counts as done that nobody called done.
    DoneUnasked,
    /// A commit of a lease that was lost was accepted.
    ZombieCommit,
    /// What was done is not done any more.
    PositionBack,
    /// An epoch is less than one before it.
    EpochBack,
    /// Two consumers had one epoch.
    TwoOwners,
    /// A commit was refused without a doubt, and its message is done and never came again.
    DoneThoughRefused,
    /// An answer came later than its bound.
    LateAnswer,
    /// A stream ended, and nobody had asked for that or was told why.
    EndedAlone,
    /// A stream went on after it had said that it ends.
    WentOn,
    /// At the end something is left to be done.
    Stuck,
    /// A message was not forwarded once.
    NotExactlyOnce,
    /// Messages were forwarded in another order than they stand in.
    ForwardedOutOfOrder,
}

/// Something that must not be, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// A history, with what is looked up in it.
pub(super) struct Context<'a> {
    pub(super) history: &'a History,
    /// Where each message of a producer is.
    pub(super) places: HashMap<u64, (usize, u64)>,
    /// What was moved away because its group could not do it: group and message.
    pub(super) moved: HashSet<(usize, u64)>,
    found: Vec<Violation>,
}

impl Context<'_> {
    pub(super) fn found(&mut self, rule: Rule, text: String) {
        self.found.push(Violation { rule, text });
    }

    /// The message at this place.
    pub(super) fn message(&self, log: usize, offset: u64) -> Option<u64> {
        let log = &self.history.logs[log];
        let at = usize::try_from(offset.checked_sub(log.start)?).ok()?;
        // A log with gaps is reported as such.
        log.messages.get(at).map(|(_, message)| *message)
    }
}

pub(super) fn check(history: &History) -> Vec<Violation> {
    let mut context = Context {
        history,
        places: HashMap::new(),
        moved: moved(history),
        found: Vec::new(),
    };
    logs::check(&mut context);
    groups::check(&mut context);
    forwards::check(&mut context);
    streams::check(&mut context);
    context.found
}

fn moved(history: &History) -> HashSet<(usize, u64)> {
    let mut moved = HashSet::new();
    for Forward { groups, to, .. } in history.forwards.iter().filter(|it| !it.is_whole) {
        let messages = to.iter().flat_map(|log| &history.logs[*log].messages);
        for (_, message) in messages {
            moved.extend(groups.iter().map(|group| (*group, *message)));
        }
    }
    moved
}

impl Event {
    /// The number of the group that it is about.
    pub fn group(&self) -> Option<usize> {
        match self {
            Self::Active(owner)
            | Self::Delivered { owner, .. }
            | Self::Asked { owner, .. }
            | Self::Committed { owner, .. }
            | Self::Refused { owner, .. }
            | Self::Fenced { owner, .. }
            | Self::Unknown { owner, .. }
            | Self::Retried { owner, .. } => Some(owner.group),
            Self::Seen(seen) => Some(seen.group),
            Self::Intent { .. }
            | Self::Acked { .. }
            | Self::Failed { .. }
            | Self::InDoubt { .. }
            | Self::Answered { .. }
            | Self::ShutDown { .. }
            | Self::Broken { .. }
            | Self::Ended { .. } => None,
        }
    }
}
