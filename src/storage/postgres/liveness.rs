//! Seeing that the process of an owner is gone.
//!
//! The connection that listens is one that its process keeps open for its life. The table `members`
//! says which backend of the server it is; once that is gone, so is the process, most likely. A
//! listener that reconnects looks dead for a moment, and so do all processes after a failover: so one
//! sighting counts for nothing, nor does any while this process has trouble itself.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::storage::{Id, Liveness};
use crate::sync::{Mutex, MutexGuard};

/// Which processes look dead, and since when: each is looked at again before it is called dead.
#[derive(Debug)]
pub(super) struct FailureDetector {
    clock: SystemClock,
    /// Guards what was seen; taken alone.
    suspicions: Mutex<Suspicions>,
}

#[derive(Debug, Default)]
struct Suspicions {
    /// The first and the last look in a row.
    suspects: HashMap<Id, (Duration, Duration)>,
    /// When the own listener came back, if it had been away.
    trouble: Option<Duration>,
}

/// Two looks that far apart have to say the same.
const APART: Duration = Duration::from_millis(150);
/// Looks further apart than this have nothing to do with each other.
const IN_A_ROW: Duration = Duration::from_secs(2);
/// For so long after the own listener came back others may be about to.
const RECOVERY: Duration = Duration::from_secs(5);

impl FailureDetector {
    pub(super) fn new(clock: SystemClock) -> Self {
        Self {
            clock,
            suspicions: Mutex::default(),
        }
    }

    /// What it means that the server shows this of an owner: of its process, where that is known.
    pub(super) fn liveness_of(&self, who: Option<Id>, is_alive: Option<bool>) -> Liveness {
        let (Some(who), Some(is_alive)) = (who, is_alive) else {
            return Liveness::Unknown;
        };
        let now = self.clock.now();
        let mut suspicions = self.suspicions();
        if is_alive {
            suspicions.suspects.remove(&who);
            return Liveness::Alive;
        }
        let recovers = |since: Duration| now.saturating_sub(since) < RECOVERY;
        if suspicions.trouble.is_some_and(recovers) {
            suspicions.suspects.clear();
            return Liveness::Alive;
        }
        let recent = |last: Duration| now.saturating_sub(last) <= IN_A_ROW;
        suspicions.suspects.retain(|_, (_, last)| recent(*last));
        let (first, last) = suspicions.suspects.entry(who).or_insert((now, now));
        *last = now;
        match now.saturating_sub(*first) >= APART {
            true => Liveness::Dead,
            false => Liveness::Alive,
        }
    }

    /// The own listener lost its connection.
    pub(super) fn had_trouble(&self) {
        self.suspicions().trouble = Some(self.clock.now());
    }

    fn suspicions(&self) -> MutexGuard<'_, Suspicions> {
        self.suspicions.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(detector: &FailureDetector, time: Duration) {
        let clock = &detector.clock;
        clock.sleep_until(clock.now().saturating_add(time)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_death_is_believed_when_it_is_seen_again() {
        let detector = FailureDetector::new(SystemClock::new());
        let (one, other) = (Some(Id(1)), Some(Id(2)));
        assert_eq!(detector.liveness_of(None, Some(false)), Liveness::Unknown);
        assert_eq!(detector.liveness_of(one, None), Liveness::Unknown);
        assert_eq!(detector.liveness_of(one, Some(true)), Liveness::Alive);
        assert_eq!(detector.liveness_of(one, Some(false)), Liveness::Alive);
        assert_eq!(
            detector.liveness_of(one, Some(false)),
            Liveness::Alive,
            "at once"
        );
        pass(&detector, APART).await;
        assert_eq!(detector.liveness_of(other, Some(false)), Liveness::Alive);
        assert_eq!(detector.liveness_of(one, Some(false)), Liveness::Dead);
        assert_eq!(detector.liveness_of(one, Some(true)), Liveness::Alive);
        assert_eq!(
            detector.liveness_of(one, Some(false)),
            Liveness::Alive,
            "anew"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_are_far_apart_do_not_add_up() {
        let detector = FailureDetector::new(SystemClock::new());
        let one = Some(Id(1));
        for _ in 0..5 {
            assert_eq!(detector.liveness_of(one, Some(false)), Liveness::Alive);
            pass(&detector, IN_A_ROW + APART).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_trouble_calls_nobody_dead() {
        let detector = FailureDetector::new(SystemClock::new());
        let one = Some(Id(1));
        assert_eq!(detector.liveness_of(one, Some(false)), Liveness::Alive);
        detector.had_trouble();
        pass(&detector, RECOVERY - APART).await;
        assert_eq!(detector.liveness_of(one, Some(false)), Liveness::Alive);
        pass(&detector, APART).await;
        assert_eq!(
            detector.liveness_of(one, Some(false)),
            Liveness::Alive,
            "anew"
        );
        pass(&detector, APART).await;
        assert_eq!(detector.liveness_of(one, Some(false)), Liveness::Dead);
    }
}
