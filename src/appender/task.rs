//! The task of the appender, which exists only while there is work.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::future::BoxFuture;
use tokio::runtime;

use super::group_write::GroupWrite;
use super::in_flight::InFlight;
use super::queue::A_LOOK;
use super::request::AppendRequest;
use super::shared::AppenderShared;
use crate::error::Error;
use crate::panics::unwound;
use crate::task::{OnDemand, Work};

/// What needs nothing of a group write that takes longer goes beside it.
const PATIENCE: Duration = Duration::from_millis(50);
/// After so long, also what needs the same as a group write that takes long makes way for what may arrive.
const MOST_PATIENCE: Duration = Duration::from_secs(1);
/// So many group writes are under way at most.
const MOST_GROUP_WRITES: usize = 8;
/// So many looks at the storage are under way at most.
const MOST_LOOKS: usize = 8;

impl Work for AppenderShared {
    fn on_demand(&self) -> &OnDemand {
        &self.on_demand
    }

    fn work(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(serve(self))
    }

    fn ended(&self, with: Option<runtime::Id>) {
        if let Some(runtime) = with {
            let left = {
                let mut queue = self.queue();
                queue.ended = Some(runtime);
                queue.drain()
            };
            self.freed.notify_waiters();
            // Each of them is answered.
            drop(left);
        }
        self.rested.notify_waiters();
    }
}

/// A panic fails what was under way, and nothing that waits.
async fn serve(shared: Arc<AppenderShared>) {
    loop {
        let mut task = AppendTask::new(&shared);
        let has_ended = unwound(pin!(task.run())).await;
        if has_ended.is_ok() {
            return;
        }
        // All that was under way is answered.
        drop(task);
        tracing::error!("the task that appends panicked, and goes on with what waits");
        shared.queue().release_all();
    }
}

/// Writes what is handed in.
struct AppendTask<'a> {
    shared: &'a AppenderShared,
    /// How many group writes to one partition may be under way at once.
    depth: usize,
    /// What arrives is encoded into it while others are under way.
    next: GroupWrite,
    /// In the order in which they began.
    in_flight: VecDeque<InFlight<'a>>,
    begun: u64,
    /// Until one that is in the way has taken long.
    patience: Option<BoxFuture<'static, ()>>,
}

/// What an [`AppendTask`] waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Landed,
    Failed,
    Arrived,
    TookLong,
}

impl<'a> AppendTask<'a> {
    fn new(shared: &'a AppenderShared) -> Self {
        Self {
            shared,
            depth: shared.storage.append_depth().max(1),
            next: GroupWrite::default(),
            in_flight: VecDeque::new(),
            begun: A_LOOK,
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
            if self.next.is_empty() && self.in_flight.is_empty() {
                match self.shared.queue().is_empty() {
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

    /// Moves what waits into the next group write while there is room. What is behind something that
    /// takes long is set aside.
    fn gather(&mut self) {
        self.begin_looks();
        while self.next.has_room() {
            let Some(request) = self.take() else {
                return;
            };
            match self.find_before(&request) {
                Some(number) => self.shared.queue().set_aside(request, number),
                None if self.shared.needs_a_look(&request) => self.look(request),
                None => {
                    let shared = self.shared;
                    self.next.add(request, &shared.routing, &shared.storage);
                }
            }
        }
    }

    /// The next of those that wait, unless it is better left for another group write.
    fn take(&mut self) -> Option<AppendRequest> {
        loop {
            let request = {
                let mut queue = self.shared.queue();
                if self.depth > 1 && self.next.is_enough_for(queue.first()?) {
                    self.next.close();
                    return None;
                }
                let was_full = !queue.has_room();
                let request = queue.pop()?;
                let is_freed = was_full && queue.has_room();
                drop(queue);
                if is_freed {
                    self.shared.freed.notify_waiters();
                }
                request
            };
            if let Some(request) = request.check() {
                return Some(request);
            }
        }
    }

    /// What a batch has to wait for beyond the next group write.
    fn find_before(&mut self, request: &AppendRequest) -> Option<u64> {
        if let Some(number) = request.sequence.is_behind() {
            return Some(number);
        }
        let mut before = self.find_in_flight_before(request);
        // Messages without a key may go somewhere else.
        for _ in 0..MOST_GROUP_WRITES {
            if before.is_none() || !self.next.is_empty() {
                break;
            }
            self.next.pass_turn();
            before = self.find_in_flight_before(request);
        }
        before
    }

    fn find_in_flight_before(&mut self, request: &AppendRequest) -> Option<u64> {
        if !self.in_flight.iter().any(|it| it.is_aside) {
            return None;
        }
        let turn = self.next.turn();
        let mut aside = self.in_flight.iter().filter(|it| it.is_aside);
        let before = aside.find(|it| it.is_before(request, self.shared, turn));
        before.map(|it| it.number)
    }

    fn look(&mut self, request: AppendRequest) {
        if self.looks() >= MOST_LOOKS {
            return self.shared.queue().set_aside(request, A_LOOK);
        }
        let number = self.number();
        let look = InFlight::look(self.shared, number, request);
        self.in_flight.push_back(look);
    }

    /// Begins looks for requests that waited until others had ended.
    fn begin_looks(&mut self) {
        while self.looks() < MOST_LOOKS {
            let first = self.shared.queue().pop_for_a_look();
            match first.map(AppendRequest::check) {
                None => return,
                Some(None) => {}
                Some(Some(request)) => self.look(request),
            }
        }
    }

    /// The group writes that are in the way of the next one.
    fn usual(&self) -> impl DoubleEndedIterator<Item = &InFlight<'a>> {
        self.in_flight.iter().filter(|it| !it.is_aside)
    }

    fn looks(&self) -> usize {
        self.in_flight.iter().filter(|it| it.is_look()).count()
    }

    fn number(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Sends the next group write off, if it may go. Whether it did, or has less in it now.
    fn begin(&mut self) -> bool {
        let shared = self.shared;
        let writes = self.in_flight.len() - self.looks();
        if self.next.is_empty() || writes >= MOST_GROUP_WRITES {
            return false;
        }
        let last = self.usual().next_back();
        if self.usual().count() >= self.depth || !may_follow(&self.next, last) {
            return false;
        }
        let before = last.and_then(|last| last.completion.clone());
        if self.clear_next() {
            return true;
        }
        let group_write = std::mem::take(&mut self.next);
        let number = self.number();
        let write = InFlight::write(shared, number, group_write, before);
        self.in_flight.push_back(write);
        self.patience = None;
        true
    }

    /// Takes out of the next group write what is behind a batch that failed, and what nobody wants.
    /// Whether there was any. (It looks at each of them: not each time that one more arrives.)
    fn clear_next(&mut self) -> bool {
        let has_what_goes = self.next.has_what_goes();
        if has_what_goes {
            let next = std::mem::take(&mut self.next);
            self.next = next.without_failed(&self.shared.routing, &self.shared.storage);
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
            if self.poll_in_flight(cx).is_ready() {
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

    /// Begins to wait for a group write that is in the way of the next one.
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
    fn poll_in_flight(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut landed = Poll::Pending;
        let shared = self.shared;
        self.in_flight.retain_mut(|it| {
            if it.work.as_mut().poll(cx).is_pending() {
                return true;
            }
            landed = Poll::Ready(());
            if it.is_aside {
                shared.queue().release(it.number);
            }
            false
        });
        landed
    }

    /// Takes out of the way what has taken long, if that is of use to anybody, and out of the next
    /// group write what is behind it.
    fn step_aside(&mut self) {
        let now = self.shared.clock.now();
        if !self.is_stepping_of_use(now) {
            let again = now.saturating_add(PATIENCE);
            self.patience = Some(self.shared.clock.sleep_until(again));
            return;
        }
        self.patience = None;
        for it in &mut self.in_flight {
            it.is_aside |= it.is_older(PATIENCE, now);
        }
        let shared = self.shared;
        let mut next = std::mem::take(&mut self.next);
        for request in next.take_all() {
            match self.find_before(&request) {
                Some(number) => shared.queue().set_aside(request, number),
                None => self.next.add(request, &shared.routing, &shared.storage),
            }
        }
    }

    /// Where all of the next group write needs the same as what takes long, it is better left together,
    /// unless that lasts.
    fn is_stepping_of_use(&mut self, now: Duration) -> bool {
        let turn = self.next.turn();
        let is_old = |it: &&InFlight<'_>| it.is_older(PATIENCE, now);
        let old: Vec<&InFlight<'_>> = self.usual().filter(is_old).collect();
        let is_free = |request: &AppendRequest| {
            let mut old = old.iter();
            !old.any(|it| it.is_before(request, self.shared, turn))
        };
        let lasts = old.iter().any(|it| it.is_older(MOST_PATIENCE, now));
        lasts || !old.is_empty() && self.next.requests().any(is_free)
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
            self.next = next.again(&shared.routing, &shared.storage);
        }
        let overdue = shared.queue().take_overdue(now);
        self.fail(overdue, &error);
    }

    fn fail(&self, requests: Vec<AppendRequest>, error: &Error) {
        if requests.is_empty() {
            return;
        }
        for request in requests {
            request.fail(error.share());
        }
        self.shared.freed.notify_waiters();
    }
}

/// Whether a group write may be under way together with those that began before: where each waits for
/// the lock of the same partition, the one after the other.
fn may_follow(next: &GroupWrite, last: Option<&InFlight<'_>>) -> bool {
    let Some(last) = last else { return true };
    // Single messages of many producers gather until the group write before has landed.
    next.has_batches() && last.target().is_some() && last.target() == next.partition()
}
