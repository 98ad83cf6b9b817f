//! What processes said, in the order in which it was heard.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The longest that a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// The wall clock of the machine, which all processes share.
pub fn now() -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970")
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// By the clock of who said it.
    pub at: Duration,
    /// The number of a process; 0 is this one.
    pub process: u32,
    /// The number of a consumer in its process.
    pub consumer: u64,
    pub what: What,
    pub group: String,
    pub offset: u64,
    pub epoch: u64,
    /// What tells the message from all others, where there is something; 0 otherwise.
    pub message: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A message is in the log.
    Sent,
    Active,
    Standby,
    Idle,
    Closed,
    Delivered,
    /// A commit gave Ok.
    Committed,
    /// A commit was refused, because the lease was lost.
    Fenced,
    /// A commit failed otherwise.
    Failed,
    /// The stream gave an error.
    Error,
    /// The stream gave the error that messages are gone which it had read.
    Lost,
    /// It knows what will happen to it.
    Armed,
    /// What it was told to do begins now.
    Leaving,
    /// A consumer of a line has had its turn.
    Left,
    /// A claim of the lease has its answer, whatever it is.
    Answered,
    /// The process has ended.
    Gone,
}

const WORDS: [(What, &str); 16] = [
    (What::Sent, "sent"),
    (What::Active, "active"),
    (What::Standby, "standby"),
    (What::Idle, "idle"),
    (What::Closed, "closed"),
    (What::Delivered, "delivered"),
    (What::Committed, "committed"),
    (What::Fenced, "fenced"),
    (What::Failed, "failed"),
    (What::Error, "error"),
    (What::Lost, "lost"),
    (What::Armed, "armed"),
    (What::Leaving, "leaving"),
    (What::Left, "left"),
    (What::Answered, "answered"),
    (What::Gone, "gone"),
];

impl Event {
    pub fn of(process: u32, what: What) -> Self {
        Self {
            at: now(),
            process,
            consumer: 0,
            what,
            group: "-".to_owned(),
            offset: 0,
            epoch: 0,
            message: 0,
        }
    }

    /// As a line; what else stands in the output of a test does not begin like this.
    pub fn encode(&self) -> String {
        let word = WORDS.iter().find(|(what, _)| *what == self.what);
        format!(
            "| {} {} {} {} {} {} {}",
            self.at.as_micros(),
            self.consumer,
            word.expect("a word for each").1,
            self.group,
            self.offset,
            self.epoch,
            self.message
        )
    }

    pub fn decode(process: u32, line: &str) -> Option<Self> {
        let mut fields = line.strip_prefix("| ")?.split(' ');
        Some(Self {
            at: Duration::from_micros(fields.next()?.parse().ok()?),
            process,
            consumer: fields.next()?.parse().ok()?,
            what: {
                let word = fields.next()?;
                WORDS.iter().find(|(_, other)| *other == word)?.0
            },
            group: fields.next()?.to_owned(),
            offset: fields.next()?.parse().ok()?,
            epoch: fields.next()?.parse().ok()?,
            message: fields.next()?.parse().ok()?,
        })
    }
}

/// Clones share it.
#[derive(Clone, Default)]
pub struct History(Arc<Shared>);

#[derive(Default)]
struct Shared {
    events: Mutex<Vec<Event>>,
    news: Condvar,
}

impl History {
    pub fn push(&self, event: Event) {
        self.lock().push(event);
        self.0.news.notify_all();
    }

    /// What comes after this moment has this number or a greater one.
    pub fn mark(&self) -> usize {
        self.lock().len()
    }

    /// Waits for an event, from a mark on.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub fn wait_for(&self, what: &str, mark: usize, mut fits: impl FnMut(&Event) -> bool) -> Event {
        let deadline = Instant::now() + PATIENCE;
        let (mut events, mut seen) = (self.lock(), mark);
        loop {
            if let Some(event) = events[seen..].iter().find(|event| fits(event)) {
                return event.clone();
            }
            seen = events.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let tail: Vec<_> = events
                    .iter()
                    .filter(|e| ![What::Sent, What::Delivered, What::Committed].contains(&e.what))
                    .collect();
                panic!("did not happen: {what}; the last events: {tail:#?}");
            }
            let woken = self.0.news.wait_timeout(events, left);
            events = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first event from a mark on that fits, if there is one yet.
    pub fn find(&self, mark: usize, fits: impl Fn(&Event) -> bool) -> Option<Event> {
        self.lock()[mark..]
            .iter()
            .find(|event| fits(event))
            .cloned()
    }

    /// The last event so far that fits.
    pub fn last(&self, fits: impl Fn(&Event) -> bool) -> Option<Event> {
        self.lock().iter().rfind(|event| fits(event)).cloned()
    }

    /// All that was heard so far, and is forgotten with this: earlier marks mean nothing more.
    pub fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.lock())
    }

    /// All that was heard so far.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
