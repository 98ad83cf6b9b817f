//! Seeing that the process of an owner is gone.
//!
//! The connection that listens is one that its process keeps open for its life. The table `members`
//! says which backend of the server it is; once that is gone, so is the process, most likely. A
//! listener that reconnects looks dead for a moment, and so do all processes after a failover: so one
//! sighting counts for nothing, nor does any while this process has trouble itself.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, SystemClock};
use crate::storage::{Id, Liveness};

/// Processes that look dead, and since when.
#[derive(Debug)]
pub(super) struct Sightings {
    clock: SystemClock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
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

impl Sightings {
    pub(super) fn new(clock: SystemClock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    /// What it means that the server shows this of an owner: of its process, where that is known.
    pub(super) fn of(&self, who: Option<Id>, lives: Option<bool>) -> Liveness {
        let (Some(who), Some(lives)) = (who, lives) else {
            return Liveness::Unknown;
        };
        let now = self.clock.now();
        let mut state = self.state();
        if lives {
            state.suspects.remove(&who);
            return Liveness::Alive;
        }
        let recovers = |since: Duration| now.saturating_sub(since) < RECOVERY;
        if state.trouble.is_some_and(recovers) {
            state.suspects.clear();
            return Liveness::Alive;
        }
        let recent = |last: Duration| now.saturating_sub(last) <= IN_A_ROW;
        state.suspects.retain(|_, (_, last)| recent(*last));
        let (first, last) = state.suspects.entry(who).or_insert((now, now));
        *last = now;
        match now.saturating_sub(*first) >= APART {
            true => Liveness::Dead,
            false => Liveness::Alive,
        }
    }

    /// The own listener lost its connection.
    pub(super) fn had_trouble(&self) {
        self.state().trouble = Some(self.clock.now());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(sightings: &Sightings, time: Duration) {
        let clock = &sightings.clock;
        clock.sleep_until(clock.now().saturating_add(time)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_death_is_believed_when_it_is_seen_again() {
        let sightings = Sightings::new(SystemClock::new());
        let (one, other) = (Some(Id(1)), Some(Id(2)));
        assert_eq!(sightings.of(None, Some(false)), Liveness::Unknown);
        assert_eq!(sightings.of(one, None), Liveness::Unknown);
        assert_eq!(sightings.of(one, Some(true)), Liveness::Alive);
        assert_eq!(sightings.of(one, Some(false)), Liveness::Alive);
        assert_eq!(sightings.of(one, Some(false)), Liveness::Alive, "at once");
        pass(&sightings, APART).await;
        assert_eq!(sightings.of(other, Some(false)), Liveness::Alive);
        assert_eq!(sightings.of(one, Some(false)), Liveness::Dead);
        assert_eq!(sightings.of(one, Some(true)), Liveness::Alive);
        assert_eq!(sightings.of(one, Some(false)), Liveness::Alive, "anew");
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_are_far_apart_do_not_add_up() {
        let sightings = Sightings::new(SystemClock::new());
        let one = Some(Id(1));
        for _ in 0..5 {
            assert_eq!(sightings.of(one, Some(false)), Liveness::Alive);
            pass(&sightings, IN_A_ROW + APART).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_trouble_calls_nobody_dead() {
        let sightings = Sightings::new(SystemClock::new());
        let one = Some(Id(1));
        assert_eq!(sightings.of(one, Some(false)), Liveness::Alive);
        sightings.had_trouble();
        pass(&sightings, RECOVERY - APART).await;
        assert_eq!(sightings.of(one, Some(false)), Liveness::Alive);
        pass(&sightings, APART).await;
        assert_eq!(sightings.of(one, Some(false)), Liveness::Alive, "anew");
        pass(&sightings, APART).await;
        assert_eq!(sightings.of(one, Some(false)), Liveness::Dead);
    }
}
