//! What goes wrong, one thing after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::crew::Crew;
use crate::dice::Dice;
use crate::place::Place;
use crate::postgres_support::Stop;
use crate::postgres_support::proxy::Network;
use crate::process_support::history::now;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `kill -9` of a process.
    Kill,
    /// SIGSTOP of a process beyond its lease, then SIGCONT.
    Pause,
    /// A process leaves in good order.
    Leave,
    /// A process comes.
    Join,
    /// The server ends a session.
    EndSession,
    /// The server ends the session in which a process listens.
    EndListener,
    /// What is sent arrives, and the answers do not.
    LoseAnswers,
    /// All connections break, and there are no new ones for a moment.
    Cut,
    /// The server is stopped at once, and recovers.
    Crash,
    /// The server restarts in good order.
    Restart,
    /// `kill -9` of a backend: the server ends all others and recovers.
    KillBackend,
    /// The server is gone for good; its synchronous standby goes on.
    FailOver,
    /// The synchronous standby goes on, and the server still runs, unaware.
    Split,
    /// The server is gone for good; its standby, which is behind, goes on.
    LoseTail,
    /// The disk of the server is full.
    FillDisk,
    /// An hour back or forth, of the server's clock or of the processes'.
    JumpClock,
}

/// Those that happen to processes and to their connections.
pub(crate) const TO_PROCESSES: [Kind; 10] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Pause,
    Kind::Pause,
    Kind::Leave,
    Kind::Join,
    Kind::EndSession,
    Kind::EndListener,
    Kind::LoseAnswers,
    Kind::Cut,
];

/// Those that happen to a server with a synchronous standby.
pub(crate) const TO_SERVERS: [Kind; 5] = [
    Kind::Crash,
    Kind::Restart,
    Kind::KillBackend,
    Kind::FailOver,
    Kind::Split,
];

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::Pause => "SIGSTOP beyond the lease",
            Self::Leave => "clean stop",
            Self::Join => "another process",
            Self::EndSession => "session ended by the server",
            Self::EndListener => "listener ended by the server",
            Self::LoseAnswers => "answers lost",
            Self::Cut => "connections cut",
            Self::Crash => "immediate stop of the server",
            Self::Restart => "fast restart of the server",
            Self::KillBackend => "kill -9 of a backend",
            Self::FailOver => "failover to a synchronous standby",
            Self::Split => "standby promoted beside its living primary",
            Self::LoseTail => "failover to a standby that is behind",
            Self::FillDisk => "disk full",
            Self::JumpClock => "clock jumped an hour",
        }
    }
}

/// What happened, and when, by the clock of this process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(pub(crate) Vec<(Duration, Kind)>);

impl Faults {
    pub(crate) fn add(&mut self, kind: Kind) {
        self.0.push((now(), kind));
    }

    pub(crate) fn counts(&self) -> BTreeMap<Kind, u64> {
        let mut counts = BTreeMap::new();
        for (_, kind) in &self.0 {
            *counts.entry(*kind).or_default() += 1;
        }
        counts
    }
}

/// A kind that cannot happen so many times in a row does not happen at all.
const TRIES: usize = 100;

/// Lets these kinds of faults happen, in any order and each at least once, with so many milliseconds
/// between two, for so long, and on a slow machine for as long as that takes.
pub(crate) fn rage(
    place: &mut Place,
    crew: &mut Crew,
    dice: &mut Dice,
    kinds: &[Kind],
    every: Range<u64>,
    time: Duration,
) -> Faults {
    let (began, mut faults, mut bag) = (Instant::now(), Faults::default(), Vec::new());
    let mut in_vain: BTreeMap<Kind, usize> = BTreeMap::new();
    let all: BTreeSet<Kind> = kinds.iter().copied().collect();
    while began.elapsed() < time || faults.counts().len() < all.len() {
        let wait = every.start + dice.below(every.end - every.start);
        let wait = Instant::now() + Duration::from_millis(wait);
        while Instant::now() < wait {
            crew.resume(false);
            std::thread::sleep(Duration::from_millis(20));
        }
        if bag.is_empty() {
            bag = dice.shuffle(kinds);
        }
        let kind = bag.pop().expect("one is left");
        // What stands still because of it does so from here on.
        let at = now();
        if happens(kind, place, crew, dice) {
            faults.0.push((at, kind));
            in_vain.remove(&kind);
        } else {
            let tries = in_vain.entry(kind).or_default();
            *tries += 1;
            assert!(*tries < TRIES, "{kind:?} does not happen: {faults:?}");
        }
    }
    faults
}

/// False if it could not happen just now.
fn happens(kind: Kind, place: &mut Place, crew: &mut Crew, dice: &mut Dice) -> bool {
    match kind {
        Kind::Kill => crew.kill(dice),
        Kind::Pause => crew.pause(dice),
        Kind::Leave => crew.dismiss(dice),
        Kind::Join => crew.enlist(dice),
        Kind::EndSession => place.end_session(dice),
        Kind::EndListener => place.end_listener(dice),
        Kind::LoseAnswers => disturb(place, Network::LosesAnswers, dice),
        Kind::Cut => disturb(place, Network::Cut, dice),
        Kind::Crash => {
            place.restart(Stop::Immediate);
            true
        }
        Kind::Restart => {
            place.restart(Stop::Fast);
            true
        }
        Kind::KillBackend => {
            let is_killed = place.kill_backend(dice);
            place.heal();
            is_killed
        }
        Kind::FailOver | Kind::Split => {
            place.until_followed("sync_state = 'sync'");
            let lost = match kind {
                Kind::Split => place.promote(),
                _ => place.fail_over(),
            };
            place.follow_synchronously();
            drop(lost);
            true
        }
        Kind::LoseTail | Kind::FillDisk | Kind::JumpClock => {
            unreachable!("they are made otherwise")
        }
    }
}

fn disturb(place: &Place, network: Network, dice: &mut Dice) -> bool {
    place.set(network);
    std::thread::sleep(Duration::from_millis(20 + dice.below(200)));
    place.set(Network::Works);
    true
}
