//! The processes at work, and what is done to them.

use std::time::{Duration, Instant};

use crate::dice::Dice;
use crate::process_support::history::{Event, History, PATIENCE, What};
use crate::process_support::{Job, Process};
use crate::role::{Part, Role, Without};

pub(crate) const IN: &str = "in";
pub(crate) const WORKERS: &str = "workers";
pub(crate) const COPIERS: &str = "copiers";

/// How the crew works.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) lease: Duration,
    /// Messages that a worker is at, at most.
    pub(crate) in_flight: usize,
    /// Work on a message.
    pub(crate) work: Duration,
    /// Between two appends of a writer.
    pub(crate) pause: Duration,
    /// Of all processes.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) without: Without,
    /// The first of each role stays for as long as the crew: it is never killed.
    pub(crate) residents: bool,
    /// The first of each role trusts its own lease for much longer than the others wait for: it does not
    /// notice by itself that it was stopped, and goes on as a zombie.
    pub(crate) zombies: bool,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(1),
            in_flight: 32,
            work: Duration::from_millis(2),
            pause: Duration::from_millis(25),
            environment: Vec::new(),
            without: Without::Nothing,
            residents: false,
            zombies: true,
        }
    }
}

/// Several processes of each role.
pub(crate) struct Crew {
    url: String,
    terms: Terms,
    pub(crate) history: History,
    members: Vec<Member>,
    /// Those that were killed, and may not have been heard to the end.
    killed: Vec<u32>,
    next: u32,
}

struct Member {
    process: Process,
    role: Role,
    is_resident: bool,
    /// It was told to go.
    is_leaving: bool,
    /// It is stopped until then.
    stopped: Option<Instant>,
}

/// The lease of those that trust theirs too long.
const TRUSTED: Duration = Duration::from_secs(30);

/// How many there are at least.
const LEAST: [(Role, usize); 3] = [(Role::Write, 4), (Role::Work, 3), (Role::Copy, 2)];
/// So many more may be started.
const EXTRA: usize = 2;

impl Crew {
    /// With as many processes as it takes.
    pub(crate) fn start(url: String, terms: Terms) -> Self {
        let mut crew = Self {
            url,
            terms,
            history: History::default(),
            members: Vec::new(),
            killed: Vec::new(),
            next: 1,
        };
        for (role, _) in LEAST {
            crew.add(role, true);
        }
        crew.fill();
        crew
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    /// At least as many as there have to be.
    pub(crate) fn fill(&mut self) {
        for (role, least) in LEAST {
            while self.count(role) < least {
                self.add(role, false);
            }
        }
    }

    fn count(&self, role: Role) -> usize {
        let stays = |member: &&Member| member.role == role && !member.is_leaving;
        self.members.iter().filter(stays).count()
    }

    fn add(&mut self, role: Role, is_first: bool) {
        let part = Part {
            role,
            number: self.next,
            without: self.terms.without,
        };
        self.next += 1;
        let group = match role {
            Role::Copy => COPIERS,
            Role::Write | Role::Work => WORKERS,
        };
        let mut job = Job::new(&*self.url, IN, group);
        job.lease = match is_first && self.terms.zombies {
            true => TRUSTED,
            false => self.terms.lease,
        };
        job.in_flight = self.terms.in_flight;
        job.work = match role {
            Role::Write => self.terms.pause,
            Role::Work | Role::Copy => self.terms.work,
        };
        job.environment = self.terms.environment.clone();
        job.environment.push(part.encode());
        self.members.push(Member {
            process: Process::start(&job, &self.history),
            role,
            is_resident: is_first && self.terms.residents,
            is_leaving: false,
            stopped: None,
        });
    }

    /// `kill -9` of any process but the residents; another one takes its place.
    pub(crate) fn kill(&mut self, dice: &mut Dice) -> bool {
        let Some(place) = self.choose(dice, |member| !member.is_resident) else {
            return false;
        };
        let mut member = self.members.remove(place);
        member.process.kill();
        self.killed.push(member.process.number);
        self.fill();
        true
    }

    /// SIGSTOP, for longer than the lease.
    pub(crate) fn pause(&mut self, dice: &mut Dice) -> bool {
        let Some(place) = self.choose(dice, |member| member.stopped.is_none()) else {
            return false;
        };
        let lease = self.terms.lease;
        let member = &mut self.members[place];
        member.process.signal("STOP");
        let longer = Duration::from_millis(100 + dice.below(lease.as_millis() as u64));
        member.stopped = Some(Instant::now() + lease + longer);
        true
    }

    /// SIGCONT for those whose time it is, or for all.
    pub(crate) fn resume(&mut self, all: bool) {
        for member in &mut self.members {
            let is_due = |until: Instant| all || until <= Instant::now();
            if member.stopped.is_some_and(is_due) {
                member.process.signal("CONT");
                member.stopped = None;
            }
        }
    }

    /// A clean end of any process but the residents.
    pub(crate) fn dismiss(&mut self, dice: &mut Dice) -> bool {
        let stays = |it: &Member| !it.is_resident && !it.is_leaving && it.stopped.is_none();
        let Some(place) = self.choose(dice, stays) else {
            return false;
        };
        let member = &mut self.members[place];
        member.process.tell("stop");
        member.is_leaving = true;
        self.fill();
        true
    }

    /// One more process, unless there are many.
    pub(crate) fn enlist(&mut self, dice: &mut Dice) -> bool {
        let room = LEAST
            .into_iter()
            .filter(|(role, least)| self.count(*role) < least + EXTRA);
        let roles: Vec<Role> = room.map(|(role, _)| role).collect();
        let role = dice.pick(&roles);
        role.map(|role| self.add(role, false)).is_some()
    }

    /// Any that is fit for it; one that has a lease as often as not.
    fn choose(&self, dice: &mut Dice, fits: impl Fn(&Member) -> bool) -> Option<usize> {
        let places = 0..self.members.len();
        let all: Vec<usize> = places.filter(|place| fits(&self.members[*place])).collect();
        let group = [WORKERS, COPIERS][dice.below(2) as usize];
        let is_active = |event: &Event| event.what == What::Active && event.group == group;
        let owner = self.history.last(is_active);
        let owner = owner.and_then(|owner| {
            let is_owner = |place: &&usize| self.members[**place].process.number == owner.process;
            all.iter().find(is_owner).copied()
        });
        match owner {
            Some(owner) if dice.below(2) == 0 => Some(owner),
            _ => dice.pick(&all),
        }
    }

    /// Lets the writers finish; those that stay wait then.
    pub(crate) fn hold(&mut self) -> Result<(), String> {
        self.finish(Role::Write)
    }

    /// Once there is nothing left to do: all that was begun has been told. Only the residents are left.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.finish(Role::Work)?;
        self.finish(Role::Copy)?;
        for number in std::mem::take(&mut self.killed) {
            self.await_word(number, What::Gone, 0)?;
        }
        Ok(())
    }

    pub(crate) fn go_on(&mut self) {
        for member in &mut self.members {
            member.process.tell("go on");
        }
        self.fill();
    }

    fn finish(&mut self, role: Role) -> Result<(), String> {
        let mark = self.history.mark();
        let mut awaited = Vec::new();
        for member in self.members.iter_mut().filter(|it| it.role == role) {
            let number = member.process.number;
            if member.is_resident {
                member.process.tell("hold");
                member.process.tell("mark");
                awaited.push((number, What::Left, mark));
            } else {
                member.process.tell("stop");
                awaited.push((number, What::Gone, 0));
            }
        }
        for (number, what, mark) in awaited {
            self.await_word(number, what, mark)?;
        }
        let stays = |member: &Member| member.role != role || member.is_resident;
        self.members.retain(stays);
        Ok(())
    }

    fn await_word(&self, number: u32, what: What, mark: usize) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        let says = |what| move |event: &Event| event.process == number && event.what == what;
        while self.history.find(mark, says(what)).is_none() {
            let is_gone = || self.history.find(mark, says(What::Gone)).is_some();
            if what != What::Gone && is_gone() {
                return Err(format!("process {number} ended by itself"));
            }
            if Instant::now() > deadline {
                return Err(format!("process {number} was not {what:?} in time"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The memory of the residents, in kB, and how many files they have open.
    pub(crate) fn sizes(&self) -> Vec<(Role, u64, usize)> {
        let residents = self.members.iter().filter(|member| member.is_resident);
        let size = |member: &Member| {
            let process = format!("/proc/{}", member.process.id());
            let status = std::fs::read_to_string(format!("{process}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let memory = line?.trim().trim_end_matches(" kB").parse().ok()?;
            let files = std::fs::read_dir(format!("{process}/fd")).ok()?.count();
            Some((member.role, memory, files))
        };
        residents.filter_map(size).collect()
    }
}
