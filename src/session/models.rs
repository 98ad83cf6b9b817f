//! Models of a session, run in all the orders that shuttle finds (`tests/models`).

use std::any::Any;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use shuttle::future::block_on;
use shuttle::thread;
use tokio::runtime::Builder;

use super::ledger::Extent;
use super::{End, Holding, LeaseHolder, Pause, Session};
use crate::clock::{Clock, ManualClock};
use crate::name::Name;
use crate::ranges::Progress;
use crate::storage::{Group, GroupState, Id, Lease, Liveness, MemoryStorage, Partition};

/// So many orders are tried of each model.
const ORDERS: usize = 5_000;

#[derive(Debug)]
struct Nobody;

impl LeaseHolder for Nobody {
    fn context(&self) -> &dyn Any {
        self
    }

    fn wake(&self) {}

    fn is_asleep(&self) -> bool {
        false
    }

    fn is_stopped(&self) -> bool {
        false
    }

    fn polls(&self) -> u64 {
        0
    }

    fn set_pause(&self, _: usize, _: u64, _: &dyn Fn() -> Option<Pause>) {}

    fn paused(&self) {}

    fn resumed(&self) {}
}

/// A session of which so many messages were handed out.
fn session(handed_out: u64) -> Arc<Session> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    let storage = Arc::new(MemoryStorage::new(clock.clone()));
    let name = |name| Name::new(name).unwrap();
    let stream = name("orders");
    let lease = Lease {
        group: Group {
            partition: Partition { stream, index: 0 },
            name: name("billing"),
        },
        owner: Id(1),
        epoch: 1,
    };
    let holding = Holding {
        holder: Arc::new(Nobody),
        partition: 0,
        dead_letters: None,
        max_attempts: None,
    };
    let state = GroupState {
        owner: Some(lease.owner),
        liveness: Liveness::Unknown,
        epoch: 1,
        generation: 1,
        progress: Progress::at(0),
        attempts: Vec::new(),
        bounds: 0..handed_out,
        incarnation: 0,
    };
    let runtime = Builder::new_current_thread().build().unwrap();
    let _entered = runtime.enter();
    let session = Session::new(lease, storage, clock, holding, &state, Duration::ZERO);
    (0..handed_out).for_each(|offset| session.hand_out(offset));
    Arc::new(session)
}

/// Whichever comes first, the drain hears of the last verdict: else it waits for ever, which shuttle sees.
#[test]
fn models_a_drain_against_the_last_ack() {
    shuttle::check_random(
        || {
            let session = session(2);
            let acking = session.clone();
            let first = thread::spawn(move || acking.ack(0));
            let dropping = session.clone();
            let second = thread::spawn(move || dropping.dropped(1));
            block_on(session.drained());
            first.join().unwrap();
            second.join().unwrap();
        },
        ORDERS,
    );
}

/// Whoever waits for a commit is told, by the write or by the end of the lease; and what was said before
/// the end is in the ledger.
#[test]
fn models_a_round_against_the_end() {
    shuttle::check_random(
        || {
            let session = session(1);
            let ending = session.clone();
            let end = thread::spawn(move || ending.end(End::Fenced));
            let writing = session.clone();
            let committer = thread::spawn(move || {
                let (_, round) = writing.take_pending();
                let Some(round) = round else { return };
                writing.wrote_pending(Duration::ZERO, 0, 1);
                round.complete(Ok(()));
            });
            let round = session.commit(0, Extent::This);
            let mut slot = None;
            let told = block_on(poll_fn(|cx| round.poll(&mut slot, cx)));
            assert!(told.as_ref().err().is_none_or(|error| error.is_fenced()));
            end.join().unwrap();
            committer.join().unwrap();
            assert!(!session.is_live() && session.progress().is_done(0));
        },
        ORDERS,
    );
}

/// A session that ends while it drains holds nobody up.
#[test]
fn models_a_drain_against_the_end() {
    shuttle::check_random(
        || {
            let session = session(1);
            let ending = session.clone();
            let end = thread::spawn(move || ending.end(End::Lapsed));
            block_on(session.drained());
            end.join().unwrap();
        },
        ORDERS,
    );
}
