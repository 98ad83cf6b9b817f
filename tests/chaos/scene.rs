//! A place, a crew, and rounds in which things go wrong: each ends by healing, and is checked.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use flowstream::Flowstream;
use tokio::runtime::Runtime;

use crate::check::{Findings, Seen};
use crate::crew::{COPIERS, Crew, IN, Terms, WORKERS};
use crate::dice::Dice;
use crate::nemesis::{Faults, Kind};
use crate::place::Place;
use crate::process_support::history::PATIENCE;
use crate::process_support::ledger;
use crate::reading::OUT;
use crate::report::Report;
use crate::role::Role;
use crate::tag::Tag;

pub(crate) struct Scene {
    name: &'static str,
    pub(crate) place: Place,
    pub(crate) crew: Crew,
    pub(crate) dice: Dice,
    base: u64,
    last: HashMap<u32, u32>,
    rests: Vec<Rest>,
}

/// What can be seen between two rounds, of the processes that stay.
#[derive(Clone, Debug)]
pub(crate) struct Rest {
    /// Memory in kB, and open files.
    pub(crate) sizes: Vec<(Role, u64, usize)>,
    /// Sessions at the server.
    pub(crate) sessions: u64,
}

/// What came of a round.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) faults: BTreeMap<Kind, u64>,
    pub(crate) findings: Findings,
    /// How long it took from healing until all was done.
    pub(crate) drained: Duration,
}

impl Scene {
    pub(crate) fn new(name: &'static str, place: Place, terms: Terms) -> Self {
        Self {
            name,
            crew: Crew::start(place.url(), terms),
            dice: Dice::new(name),
            place,
            base: 0,
            last: HashMap::new(),
            rests: Vec::new(),
        }
    }

    /// Lets this go wrong while all are at work, heals, waits until all is done, and checks it all.
    pub(crate) fn round(
        &mut self,
        wrong: impl FnOnce(&mut Place, &mut Crew, &mut Dice) -> Faults,
    ) -> Result<Outcome, String> {
        self.until_done_with(self.base + 1)?;
        let faults = wrong(&mut self.place, &mut self.crew, &mut self.dice);
        if faults.0.is_empty() {
            return Err("nothing went wrong".to_owned());
        }
        let (seen, drained) = self.heal()?;
        let findings = seen.check(&faults)?;
        self.rest(seen)?;
        let outcome = Outcome {
            faults: faults.counts(),
            findings,
            drained,
        };
        println!("{}: {outcome:?}", self.name);
        Ok(outcome)
    }

    /// Heals, and waits until all is done: what is known then, and how long it took.
    pub(crate) fn heal(&mut self) -> Result<(Seen, Duration), String> {
        let healed = Instant::now();
        self.crew.resume(true);
        self.place.heal();
        self.crew.hold()?;
        let end = self.end();
        self.until_done_with(end)?;
        let drained = healed.elapsed();
        self.crew.settle()?;
        Ok((self.seen(), drained))
    }

    fn seen(&self) -> Seen {
        let (cluster, database) = (self.place.cluster(), &self.place.database);
        let writes = |group| ledger::writes(cluster, database, IN, group);
        Seen {
            base: self.base,
            log: read(&self.place.runtime, &self.place.flow, IN, self.base),
            copies: read(&self.place.runtime, &self.place.flow, OUT, self.base),
            events: self.crew.history.take(),
            workers: writes(WORKERS),
            copiers: writes(COPIERS),
            in_flight: self.crew.terms().in_flight,
            last: self.last.clone(),
        }
    }

    /// Between two rounds: forgets what was checked, and looks at those who stay.
    fn rest(&mut self, seen: Seen) -> Result<(), String> {
        self.base += seen.log.len() as u64;
        let last = seen.log.iter().map(|(_, tag)| (tag.writer, tag.number));
        self.last.extend(last);
        let forget = "DELETE FROM audit.writes WHERE n NOT IN
            (SELECT max(n) FROM audit.writes GROUP BY stream, name)";
        let sessions = "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in transaction%')
            FROM pg_stat_activity WHERE datname = current_database()";
        let (Some(_), Some(sessions)) = (self.place.ask(forget), self.place.ask(sessions)) else {
            return Err("the server does not answer".to_owned());
        };
        let (sessions, left_open) = sessions.split_once('|').expect("two numbers");
        if left_open != "0" {
            return Err(format!("{left_open} transactions are left open"));
        }
        let rest = Rest {
            sizes: self.crew.sizes(),
            sessions: sessions.parse().expect("a number"),
        };
        println!("{}: at rest: {rest:?}", self.name);
        self.rests.push(rest);
        Ok(())
    }

    /// Rounds until the time is over; at least one. Gives all of them, and how those who stay changed.
    pub(crate) fn rounds(
        mut self,
        time: Duration,
        mut round: impl FnMut(&mut Self) -> Result<Outcome, String>,
    ) -> Result<(Vec<Outcome>, Vec<Rest>), String> {
        let (began, mut outcomes) = (Instant::now(), vec![round(&mut self)?]);
        while began.elapsed() < time {
            self.crew.go_on();
            outcomes.push(round(&mut self)?);
        }
        Ok((outcomes, self.rests))
    }

    /// Waits until both groups have done all before this offset.
    pub(crate) fn until_done_with(&self, end: u64) -> Result<(), String> {
        self.until("work that goes on", |this| {
            let works = |group| this.position(group) >= end;
            works(WORKERS) && works(COPIERS)
        })
    }

    pub(crate) fn end(&self) -> u64 {
        let bounds = self.place.runtime.block_on(self.place.flow.bounds(IN));
        bounds.map_or(0, |bounds| bounds[0].end)
    }

    /// Of a group that may not be there yet.
    fn position(&self, group: &str) -> u64 {
        let look = self.place.flow.group(IN, group);
        let states = self.place.runtime.block_on(look);
        states.map_or(0, |states| states[0].position())
    }

    fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            if Instant::now() > deadline {
                let groups = self.place.runtime.block_on(self.place.flow.groups(None));
                return Err(format!("not in time: {what}; {groups:#?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// All of a stream from an offset on.
pub(crate) fn read(
    runtime: &Runtime,
    flow: &Flowstream,
    stream: &str,
    base: u64,
) -> Vec<(u64, Tag)> {
    runtime.block_on(async {
        let mut all: Vec<(u64, Tag)> = Vec::new();
        loop {
            let next = all.last().map_or(base, |(offset, _)| offset + 1);
            let page = flow.read(stream, 0, next).await.expect("a page");
            if page.is_empty() {
                return all;
            }
            let tag = |message| Tag::of(message).expect("a message of ours");
            let page = page.iter();
            all.extend(page.map(|(offset, message)| (*offset, tag(message))));
        }
    })
}

/// Says it all, for people and for the page.
pub(crate) fn tell(suite: &str, outcomes: &[Outcome], rests: &[Rest], in_flight: usize) {
    let mut report = Report::of(suite).count("seeds", 1);
    for Outcome {
        faults,
        findings,
        drained,
    } in outcomes
    {
        for (kind, count) in faults {
            report = report.fault(kind.name(), *count);
        }
        for (kind, time) in &findings.stood_still {
            let what = format!("ms without a commit, {}", kind.name());
            report = report.most(&what, time.as_millis());
        }
        let worst = findings.stood_still.values().max();
        let worst = worst.map_or(0, Duration::as_millis);
        report = report
            .count("messages", findings.messages)
            .count("acked", findings.acked)
            .count("delivered again", findings.workers.again)
            .count("owners", findings.workers.owners + findings.copy_owners)
            .count("zombie commits refused", findings.workers.fenced)
            .count("zombie appends refused", findings.refused)
            .count("errors got over", findings.errors)
            .most(
                "delivered again in one takeover",
                findings.workers.most_again,
            )
            .most("delivered again in one takeover, bound", in_flight)
            .most("recovery ms", worst)
            .most("drain ms", drained.as_millis());
    }
    // Each of these would have been an error.
    for never in [
        "lost",
        "gaps",
        "order errors",
        "doubled",
        "exactly-once duplicates",
        "owners beyond one an epoch",
        "zombie commits accepted",
    ] {
        report = report.count(never, 0);
    }
    if let ([first, ..], [.., last]) = (rests, rests) {
        let sessions = rests.iter().map(|rest| rest.sessions).max();
        report = report.most("sessions at rest", sessions.unwrap_or(0));
        for ((role, before, _), (_, after, files)) in first.sizes.iter().zip(&last.sizes) {
            println!("{suite}: {role:?}: {before} kB, then {after} kB and {files} open files");
            report = report
                .most(&format!("kB of {role:?} at first"), *before)
                .most(&format!("kB of {role:?} at last"), *after)
                .most("open files of a process", *files);
        }
    }
    report.write();
    println!("{report:#?}");
}
