//! The task of the appender, which exists only while there is work.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime::{self, Handle};

use super::Shared;
use super::flight::Flight;
use super::queue::A_LOOK;
use super::statement::Statement;
use super::submission::Submission;
use crate::caught::unwound;
use crate::error::Error;

/// What needs nothing of a statement that takes longer goes beside it.
const PATIENCE: Duration = Duration::from_millis(50);
/// And then what needs the same makes way for what may arrive.
const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// So many statements are under way at most.
const MOST_STATEMENTS: usize = 8;
/// And so many looks.
const MOST_LOOKS: usize = 8;

/// Starts the task, which ends once nothing waits.
pub(super) fn start(shared: &Arc<Shared>, runtime: &Handle) {
    let turn = Turn {
        shared: shared.clone(),
        runtime: runtime.id(),
        is_over: false,
    };
    let work = Box::pin(serve(shared.clone()));
    runtime.spawn(Task { turn, work });
}

/// Its fields are dropped in this order: it is said first that no task runs any more, so that whoever
/// is answered by the end of the work may hand in again.
struct Task {
    turn: Turn,
    work: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.work.as_mut().poll(cx));
        self.turn.is_over = true;
        self.turn.shared.rested.notify_waiters();
        Poll::Ready(())
    }
}

/// That a task runs. Dropped before its end, its runtime has ended.
struct Turn {
    shared: Arc<Shared>,
    runtime: runtime::Id,
    is_over: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let left = {
            let mut queue = self.shared.queue();
            queue.is_running = false;
            queue.ended = Some(self.runtime);
            queue.drain()
        };
        self.shared.freed.notify_waiters();
        self.shared.rested.notify_waiters();
        // Each of them is answered.
        drop(left);
    }
}

/// A panic fails what was under way, and nothing that waits.
async fn serve(shared: Arc<Shared>) {
    loop {
        let mut writer = Writer::new(&shared);
        let has_ended = unwound(pin!(writer.run())).await;
        if has_ended.is_ok() {
            return;
        }
        // All that was under way is answered.
        drop(writer);
        tracing::error!("the task that appends panicked, and goes on with what waits");
        shared.queue().release_all();
    }
}

/// Writes what is handed in.
struct Writer<'a> {
    shared: &'a Shared,
    /// How many statements to one partition may be under way at once.
    depth: usize,
    /// What arrives is encoded into it while others are under way.
    next: Statement,
    /// In the order in which they began.
    flights: VecDeque<Flight<'a>>,
    flown: u64,
    /// Until one that is in the way has taken long.
    patience: Option<BoxFuture<'static, ()>>,
}

/// What a [`Writer`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Landed,
    Failed,
    Arrived,
    TookLong,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            depth: shared.storage.append_depth().max(1),
            next: Statement::default(),
            flights: VecDeque::new(),
            flown: A_LOOK,
            patience: None,
        }
    }

    /// Until nothing waits.
    async fn run(&mut self) {
        loop {
            self.gather();
            if self.begin() {
                continue;
            }
            if self.next.is_empty() && self.flights.is_empty() {
                match self.shared.rest() {
                    true => return,
                    false => continue,
                }
            }
            match self.wait().await {
                Event::Landed => {
                    self.clear_next();
                }
                Event::Failed => self.fail_overdue(),
                Event::Arrived | Event::TookLong => {}
            }
        }
    }

    /// Moves what waits into the next statement while there is room. What is behind something that
    /// takes long is set aside.
    fn gather(&mut self) {
        self.begin_looks();
        while self.next.has_room() {
            let Some(submission) = self.take() else {
                return;
            };
            match self.find_before(&submission) {
                Some(number) => self.shared.queue().set_aside(submission, number),
                None if self.shared.needs_a_look(&submission) => self.look(submission),
                None => {
                    let shared = self.shared;
                    self.next.add(submission, &shared.routes, &shared.storage);
                }
            }
        }
    }

    /// The next of those that wait, unless it is better left for another statement.
    fn take(&mut self) -> Option<Submission> {
        loop {
            let submission = {
                let mut queue = self.shared.queue();
                if self.depth > 1 && self.next.is_enough_for(queue.first()?) {
                    self.next.close();
                    return None;
                }
                let was_full = !queue.has_room();
                let submission = queue.pop()?;
                let is_freed = was_full && queue.has_room();
                drop(queue);
                if is_freed {
                    self.shared.freed.notify_waiters();
                }
                submission
            };
            if let Some(submission) = submission.check() {
                return Some(submission);
            }
        }
    }

    /// What a batch has to wait for beyond the next statement.
    fn find_before(&mut self, submission: &Submission) -> Option<u64> {
        if let Some(number) = submission.chain.is_behind() {
            return Some(number);
        }
        let mut before = self.find_flight_before(submission);
        // Messages without a key may go somewhere else.
        for _ in 0..MOST_STATEMENTS {
            if before.is_none() || !self.next.is_empty() {
                break;
            }
            self.next.pass_turn();
            before = self.find_flight_before(submission);
        }
        before
    }

    fn find_flight_before(&mut self, submission: &Submission) -> Option<u64> {
        if !self.flights.iter().any(|flight| flight.is_aside) {
            return None;
        }
        let turn = self.next.turn();
        let mut aside = self.flights.iter().filter(|flight| flight.is_aside);
        let before = aside.find(|flight| flight.is_before(submission, self.shared, turn));
        before.map(|flight| flight.number)
    }

    fn look(&mut self, submission: Submission) {
        if self.looks() >= MOST_LOOKS {
            return self.shared.queue().set_aside(submission, A_LOOK);
        }
        let number = self.number();
        let flight = Flight::look(self.shared, number, submission);
        self.flights.push_back(flight);
    }

    /// Those that waited for others to end.
    fn begin_looks(&mut self) {
        while self.looks() < MOST_LOOKS {
            let first = self.shared.queue().pop_for_a_look();
            match first.map(Submission::check) {
                None => return,
                Some(None) => {}
                Some(Some(submission)) => self.look(submission),
            }
        }
    }

    /// The statements that are in the way of the next one.
    fn usual(&self) -> impl DoubleEndedIterator<Item = &Flight<'a>> {
        self.flights.iter().filter(|flight| !flight.is_aside)
    }

    fn looks(&self) -> usize {
        self.flights.iter().filter(|it| it.is_look()).count()
    }

    fn number(&mut self) -> u64 {
        self.flown += 1;
        self.flown
    }

    /// Sends the next statement off, if it may go. Whether it did, or has less in it now.
    fn begin(&mut self) -> bool {
        let shared = self.shared;
        let statements = self.flights.len() - self.looks();
        if self.next.is_empty() || statements >= MOST_STATEMENTS {
            return false;
        }
        let last = self.usual().next_back();
        if self.usual().count() >= self.depth || !may_follow(&self.next, last) {
            return false;
        }
        let before = last.and_then(|last| last.landing.clone());
        if self.clear_next() {
            return true;
        }
        let statement = std::mem::take(&mut self.next);
        let number = self.number();
        let flight = Flight::write(shared, number, statement, before);
        self.flights.push_back(flight);
        self.patience = None;
        true
    }

    /// Takes out of the next statement what is behind a batch that failed, and what nobody wants.
    /// Whether there was any. (It looks at each of them: not each time that one more arrives.)
    fn clear_next(&mut self) -> bool {
        let has_what_goes = self.next.has_what_goes();
        if has_what_goes {
            let next = std::mem::take(&mut self.next);
            self.next = next.unchained(&self.shared.routes, &self.shared.storage);
        }
        has_what_goes
    }

    async fn wait(&mut self) -> Event {
        self.be_patient();
        let shared = self.shared;
        let may_gather = self.next.has_room();
        let mut arrived = pin!(shared.arrived.notified());
        let mut failed = pin!(shared.failed.notified());
        let event = poll_fn(|cx| {
            if self.poll_flights(cx).is_ready() {
                return Poll::Ready(Event::Landed);
            }
            if failed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Failed);
            }
            if may_gather && arrived.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Arrived);
            }
            match &mut self.patience {
                Some(patience) => patience.as_mut().poll(cx).map(|()| Event::TookLong),
                None => Poll::Pending,
            }
        })
        .await;
        if event == Event::TookLong {
            self.step_aside();
        }
        event
    }

    /// Begins to wait for a statement that is in the way of the next one.
    fn be_patient(&mut self) {
        let oldest = self.usual().next();
        let Some(oldest) = oldest.filter(|_| !self.next.is_empty()) else {
            return;
        };
        let clock = &self.shared.clock;
        let until = oldest.began.saturating_add(PATIENCE);
        self.patience
            .get_or_insert_with(|| clock.sleep_until(until));
    }

    /// Ready once some have landed: then those behind them wait in their places again.
    fn poll_flights(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut landed = Poll::Pending;
        let shared = self.shared;
        self.flights.retain_mut(|flight| {
            if flight.work.as_mut().poll(cx).is_pending() {
                return true;
            }
            landed = Poll::Ready(());
            if flight.is_aside {
                shared.queue().release(flight.number);
            }
            false
        });
        landed
    }

    /// Takes out of the way what has taken long, if that is of use to anybody, and out of the next
    /// statement what is behind it.
    fn step_aside(&mut self) {
        let now = self.shared.clock.now();
        if !self.is_stepping_of_use(now) {
            let again = now.saturating_add(PATIENCE);
            self.patience = Some(self.shared.clock.sleep_until(again));
            return;
        }
        self.patience = None;
        for flight in &mut self.flights {
            flight.is_aside |= flight.is_older(PATIENCE, now);
        }
        let shared = self.shared;
        let mut next = std::mem::take(&mut self.next);
        for submission in next.take_all() {
            match self.find_before(&submission) {
                Some(number) => shared.queue().set_aside(submission, number),
                None => self.next.add(submission, &shared.routes, &shared.storage),
            }
        }
    }

    /// Where all of the next statement needs the same as what takes long, it is better left together,
    /// unless that lasts.
    fn is_stepping_of_use(&mut self, now: Duration) -> bool {
        let turn = self.next.turn();
        let is_old = |flight: &&Flight<'_>| flight.is_older(PATIENCE, now);
        let old: Vec<&Flight<'_>> = self.usual().filter(is_old).collect();
        let is_free = |submission: &Submission| {
            let mut old = old.iter();
            !old.any(|flight| flight.is_before(submission, self.shared, turn))
        };
        let lasts = old.iter().any(|flight| flight.is_older(MOST_PATIENCE, now));
        lasts || !old.is_empty() && self.next.submissions().any(is_free)
    }

    /// While the storage fails, what waits shares the error once its budget is over.
    fn fail_overdue(&mut self) {
        let (shared, now) = (self.shared, self.shared.clock.now());
        if let Some(error) = shared.look_failure.get() {
            let overdue = shared.queue().take_overdue_looks(now);
            self.fail(overdue, &error);
        }
        let Some(error) = shared.failure.get() else {
            return;
        };
        if self.next.give_up(now, &error) {
            let next = std::mem::take(&mut self.next);
            self.next = next.again(&shared.routes, &shared.storage);
        }
        let overdue = shared.queue().take_overdue(now);
        self.fail(overdue, &error);
    }

    fn fail(&self, submissions: Vec<Submission>, error: &Error) {
        if submissions.is_empty() {
            return;
        }
        for submission in submissions {
            submission.fail(error.share());
        }
        self.shared.freed.notify_waiters();
    }
}

/// Whether a statement may be under way together with those that began before: where each waits for
/// the lock of the same partition, the one after the other.
fn may_follow(next: &Statement, last: Option<&Flight<'_>>) -> bool {
    let Some(last) = last else { return true };
    // Single messages of many producers gather until the statement before has landed.
    next.has_batches() && last.target().is_some() && last.target() == next.partition()
}
