//! Real processes for tests: this program once more, as consumers that say what they do.
//!
//! A program that uses this calls [`worker::run_if_asked`] in a test named `child`, or first thing in
//! `main`. Each process says on its standard output what happens to its consumers; all that the
//! processes of one [`History`] said is checked at the end, against the ledger that the database kept.
//!
//! A process ends with its parent, however that ends: its standard input is closed then, and one that
//! is stopped is in a group of its own, which the system hangs up when it is orphaned.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "not every program needs all of it"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use history::{Event, History, What, now};

pub mod check;
pub mod connections;
pub mod faketime;
pub mod history;
pub mod idle;
pub mod ledger;
pub mod producing;
pub mod storm;
pub mod trials;
pub mod worker;

/// What a process is to do: consume a stream for some groups.
#[derive(Clone, Debug)]
pub struct Job {
    pub url: String,
    pub stream: String,
    pub groups: Vec<String>,
    /// So many consumers for each group.
    pub consumers: usize,
    pub lease: Duration,
    /// So many messages are worked on at once.
    pub in_flight: usize,
    /// How long work on a message takes.
    pub work: Duration,
    pub style: Style,
    /// Whether the wall clock that is given to the library jumps by hours.
    pub clock_jumps: bool,
    /// Variables of the environment.
    pub environment: Vec<(String, String)>,
}

/// How long consumers stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Until they are told to go.
    Stay,
    /// They come and go at random.
    Storm,
}

impl Job {
    pub fn new(url: impl Into<String>, stream: &str, group: &str) -> Self {
        Self {
            url: url.into(),
            stream: stream.to_owned(),
            groups: vec![group.to_owned()],
            consumers: 1,
            lease: Duration::from_secs(30),
            in_flight: 8,
            work: Duration::from_millis(2),
            style: Style::Stay,
            clock_jumps: false,
            environment: Vec::new(),
        }
    }

    /// The one that the parent gave to this process.
    pub fn given() -> Option<Self> {
        std::env::var(JOB).ok().map(|job| Self::decode(&job))
    }

    fn encode(&self) -> String {
        [
            self.url.clone(),
            self.stream.clone(),
            self.groups.join(","),
            self.consumers.to_string(),
            self.lease.as_micros().to_string(),
            self.in_flight.to_string(),
            self.work.as_micros().to_string(),
            (self.style == Style::Storm).to_string(),
            self.clock_jumps.to_string(),
        ]
        .join("\n")
    }

    fn decode(text: &str) -> Self {
        let mut lines = text.lines();
        let mut next = || lines.next().expect("a line of the job").to_owned();
        Self {
            url: next(),
            stream: next(),
            groups: next().split(',').map(str::to_owned).collect(),
            consumers: next().parse().expect("a number"),
            lease: Duration::from_micros(next().parse().expect("a time")),
            in_flight: next().parse().expect("a number"),
            work: Duration::from_micros(next().parse().expect("a time")),
            style: match next().as_str() {
                "true" => Style::Storm,
                _ => Style::Stay,
            },
            clock_jumps: next() == "true",
            environment: Vec::new(),
        }
    }
}

/// Where a process finds its job.
const JOB: &str = "FLOWSTREAM_PROCESS";

/// A process that consumes. Killed when it is dropped.
pub struct Process {
    child: Child,
    input: ChildStdin,
    /// Its number among all that this program started.
    pub number: u32,
}

impl Process {
    /// Starts one, which tells this history.
    pub fn start(job: &Job, history: &History) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "child", "--nocapture"])
            .env(JOB, job.encode())
            // Some panic because they are told to.
            .env_remove("RUST_BACKTRACE")
            .envs(job.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .spawn()
            .expect("this program runs once more");
        let input = child.stdin.take().expect("a pipe");
        let output = child.stdout.take().expect("a pipe");
        let history = history.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(event) = Event::decode(number, &line) {
                    history.push(event);
                }
            }
            history.push(Event::of(number, What::Gone));
        });
        Self {
            child,
            input,
            number,
        }
    }

    /// The id that the system gave it.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A word on its standard input. One that is gone does not hear it.
    pub fn tell(&mut self, word: &str) {
        let _ = writeln!(self.input, "{word}");
    }

    /// `kill -9`, and when.
    pub fn kill(&mut self) -> Duration {
        let at = now();
        self.child.kill().expect("it is a child of ours");
        self.child.wait().expect("it ends");
        at
    }

    /// Sends `STOP` or `CONT`.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{signal}"), &pid])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{signal}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
