//! What a proxy is told to break, and what it saw.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::frames::Tag;

/// Where a message goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// One fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// At this message of a direction.
    Cut(Direction, Place, Cut),
    /// The server's answer to a statement is this SQLSTATE: to the one with this number, from 0, among
    /// those over all connections of which this is the essence.
    Sql(String, usize, &'static str, When),
}

/// A second fault, which strikes while the first is being recovered from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// At the message of this direction with this number, from 0, among those after the first fault.
    Cut(Direction, usize, Cut),
    /// The next statement fails that is the same as the one that the first fault struck; or the next
    /// of any kind, where that was none.
    Sql(&'static str, When),
}

/// A message, by what a test was doing when it passed: how many go before it depends on how busy
/// the machine is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    pub step: usize,
    /// Its number in the step, from 0, over all connections.
    pub at: usize,
}

/// What becomes of the connection. The message itself does not arrive, except where this says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cut {
    /// Both ends are reset.
    Reset,
    /// Both ends are closed in order.
    Finish,
    /// The answer to the statement that the message is of comes as far as the proxy, so that its
    /// transaction is over; then the client is reset.
    LoseAnswer,
    /// Nothing goes to the server any more, and nobody is told.
    DeafServer,
    /// Nothing goes to the client any more, and nobody is told.
    DeafClient,
    /// Nothing goes anywhere any more, and nobody is told.
    Silence,
    /// The server is reset; the client is not told.
    ServerGone,
    /// The client is reset; the server is not told.
    ClientGone,
    /// The message and what follows reach the server once the client has given the connection up.
    Late,
    /// Everything goes on, a moment later.
    Delay,
}

impl Cut {
    pub const ALL: [Self; 10] = [
        Self::Reset,
        Self::Finish,
        Self::LoseAnswer,
        Self::DeafServer,
        Self::DeafClient,
        Self::Silence,
        Self::ServerGone,
        Self::ClientGone,
        Self::Late,
        Self::Delay,
    ];
}

/// When a statement fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum When {
    /// The server never gets it.
    Before,
    /// It has run. Where the code says that nothing was written, it is rolled back, as a commit that
    /// fails is; where the code says nothing, it stays.
    After,
}

/// A message that passed, or was to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    pub step: usize,
    pub tag: Tag,
}

/// A statement that was sent, or is about to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sent {
    pub step: usize,
    pub essence: String,
}

/// What was counted since a proxy was armed.
#[derive(Clone, Default, Debug)]
pub struct Seen {
    pub to_server: Vec<Passed>,
    pub to_client: Vec<Passed>,
    pub statements: Vec<Sent>,
    /// At which message or statement the fault struck.
    pub fired: Option<Fired>,
    /// And at which the second.
    pub fired_again: Option<Fired>,
    /// What came late has come to the server.
    pub landed_late: bool,
}

#[derive(Clone, Debug)]
pub struct Fired {
    pub step: usize,
    pub tag: Option<Tag>,
    pub essence: String,
}

/// What the connections of a proxy share.
#[derive(Debug)]
pub(super) struct Wire {
    state: Mutex<State>,
    /// Grows when what is broken is to end.
    pub(super) heals: watch::Sender<u64>,
}

#[derive(Default, Debug)]
struct State {
    is_armed: bool,
    fault: Option<Fault>,
    then: Option<Then>,
    step: usize,
    seen: Seen,
}

impl Wire {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            heals: watch::Sender::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn arm(&self, fault: Option<Fault>) {
        *self.state() = State {
            is_armed: true,
            fault,
            ..State::default()
        };
    }

    pub(super) fn then(&self, then: Option<Then>) {
        self.state().then = then;
    }

    pub(super) fn set_step(&self, step: usize) {
        self.state().step = step;
    }

    pub(super) fn heal(&self) {
        let mut state = self.state();
        (state.fault, state.then) = (None, None);
        drop(state);
        self.heals.send_modify(|heals| *heals += 1);
    }

    pub(super) fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    pub(super) fn landed_late(&self) {
        self.state().seen.landed_late = true;
    }

    /// Counts a message; what is to become of the connection now.
    pub(super) fn passes(&self, direction: Direction, tag: Tag, sql: &str) -> Option<Cut> {
        let mut state = self.state();
        if !state.is_armed {
            return None;
        }
        let step = state.step;
        let passed = match direction {
            Direction::ToServer => &mut state.seen.to_server,
            Direction::ToClient => &mut state.seen.to_client,
        };
        let at = passed.iter().filter(|passed| passed.step == step).count();
        passed.push(Passed { step, tag });
        let here = Place { step, at };
        match state.fault {
            Some(Fault::Cut(of, place, cut)) if of == direction && place == here => {
                state.fault = None;
                state.fire(Some(tag), sql);
                return Some(cut);
            }
            _ => {}
        }
        state.seen.fired.as_ref()?;
        match &mut state.then {
            Some(Then::Cut(of, 0, cut)) if *of == direction => {
                let cut = *cut;
                state.fire_again(Some(tag), sql);
                return Some(cut);
            }
            Some(Then::Cut(of, left, _)) if *of == direction => *left -= 1,
            _ => {}
        }
        None
    }

    /// Counts a statement; how it is to fail.
    pub(super) fn begins(&self, sql: &str) -> Option<(&'static str, When)> {
        let mut state = self.state();
        if !state.is_armed {
            return None;
        }
        let essence = essence(sql);
        let sent = &state.seen.statements;
        let number = sent.iter().filter(|sent| sent.essence == essence).count();
        let fails = match &state.fault {
            Some(Fault::Sql(of, at, code, when)) if *of == essence && *at == number => {
                Some((*code, *when))
            }
            _ => None,
        };
        let fails_again = match (state.then, &state.seen.fired) {
            (Some(Then::Sql(code, when)), Some(first)) if may_fail(&essence) => {
                let is_it = first.essence == essence || !may_fail(&first.essence);
                is_it.then_some((code, when))
            }
            _ => None,
        };
        let step = state.step;
        state.seen.statements.push(Sent { step, essence });
        if fails.is_some() {
            state.fault = None;
            state.fire(None, sql);
        } else if fails_again.is_some() {
            state.fire_again(None, sql);
        }
        fails.or(fails_again)
    }
}

/// The end of a transaction that failed, or of a session, does not fail itself: what the server did
/// then is over.
pub fn may_fail(essence: &str) -> bool {
    !["rollback", "unlisten *", ""].contains(&&*essence.to_lowercase())
}

/// What a statement is, whatever storage and process it is of, in a line.
fn essence(sql: &str) -> String {
    let sql = sql.split_once("*/ ").map_or(sql, |(_, rest)| rest);
    let quoted = ["'::uuid", "'::pg_catalog.uuid"];
    let before = quoted.iter().find_map(|end| sql.split_once(end));
    let sql = before.map_or(sql, |(start, _)| {
        start.rsplit_once('\'').map_or(start, |(start, _)| start)
    });
    let lines = sql.lines().filter(|line| !line.trim().starts_with("--"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    words.join(" ")
}

impl State {
    fn fire(&mut self, tag: Option<Tag>, sql: &str) {
        self.seen.fired = Some(self.here(tag, sql));
    }

    fn fire_again(&mut self, tag: Option<Tag>, sql: &str) {
        self.then = None;
        self.seen.fired_again = Some(self.here(tag, sql));
    }

    fn here(&self, tag: Option<Tag>, sql: &str) -> Fired {
        Fired {
            step: self.step,
            tag,
            essence: essence(sql),
        }
    }
}
