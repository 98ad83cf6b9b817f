//! What a run of a suite found, for the page that `tests/reliability` makes of all of them.
//!
//! ```ignore
//! Report::of("process chaos")
//!     .count("acked", acked)
//!     .count("lost", 0)
//!     .fault("kill -9", kills)
//!     .most("recovery ms", slowest)
//!     .write();
//! ```
//!
//! Where `FLOWSTREAM_REPORT` names a directory, [`write`](Report::write) adds a line of JSON to the file
//! of the suite there; without it nothing happens. Tests and rounds of a suite each write a line of
//! their own: the page adds up counts and faults, and takes the greatest of what is a most.
//!
//! Everything is shown under its suite. Counts with these names are also added up over all suites:
//! `acked`, `lost`, `gaps`, `order errors`, `doubled`, `exactly-once duplicates`, `delivered again`,
//! `owners beyond one an epoch`, `zombie commits refused`, `zombie appends refused`,
//! `zombie commits accepted`, `cut points`, `pairs of faults`, `cancel points`, `crash images`,
//! `planted bugs`, `bad inputs`, `seeds`; and the greatest of `recovery ms`, `delivered again in one takeover` and
//! `delivered again in one takeover, bound` is found. A control run reports nothing but `planted bugs`.

#![allow(dead_code, unreachable_pub, reason = "not every suite needs all of it")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// For how long each test of a suite goes on that can, where that was asked for: `FLOWSTREAM_SOAK`
/// is a number of minutes.
///
/// # Panics
///
/// If it is none.
pub fn soak() -> Option<Duration> {
    let minutes = std::env::var("FLOWSTREAM_SOAK").ok()?;
    let minutes: f64 = minutes.parse().expect("FLOWSTREAM_SOAK is in minutes");
    (minutes > 0.0).then(|| Duration::from_secs_f64(60.0 * minutes))
}

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "nobody reads it before it is written"]
pub struct Report {
    suite: String,
    counts: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    most: BTreeMap<String, u64>,
}

impl Report {
    /// Of a suite, as the page calls it.
    pub fn of(suite: &str) -> Self {
        Self {
            suite: suite.to_owned(),
            ..Self::default()
        }
    }

    /// How many of these there were; also 0 where that is what was hoped for.
    pub fn count(mut self, what: &str, number: impl TryInto<u64>) -> Self {
        add(&mut self.counts, what, number);
        self
    }

    /// How many faults of a kind fired.
    pub fn fault(mut self, kind: &str, number: impl TryInto<u64>) -> Self {
        add(&mut self.faults, kind, number);
        self
    }

    /// The most of something that was seen, with its unit in the name.
    pub fn most(mut self, what: &str, number: impl TryInto<u64>) -> Self {
        let most = self.most.entry(what.to_owned()).or_default();
        *most = clamp(number).max(*most);
        self
    }

    /// Adds the line to the file of the suite, if anybody wants to know.
    ///
    /// # Panics
    ///
    /// If it cannot be written.
    pub fn write(&self) {
        let Some(directory) = std::env::var_os("FLOWSTREAM_REPORT").map(PathBuf::from) else {
            return;
        };
        fs::create_dir_all(&directory).expect("a directory for reports");
        let name: String = self
            .suite
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '-' })
            .collect();
        let path = directory.join(format!("{name}.jsonl"));
        let file = OpenOptions::new().create(true).append(true).open(path);
        // In one call, so that lines of several tests do not mix.
        let line = format!("{}\n", self.to_json());
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the report is written");
    }

    fn to_json(&self) -> String {
        let object = |map: &BTreeMap<String, u64>| {
            let fields = map
                .iter()
                .map(|(name, number)| format!("{}: {number}", quoted(name)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        };
        format!(
            r#"{{"suite": {}, "counts": {}, "faults": {}, "most": {}}}"#,
            quoted(&self.suite),
            object(&self.counts),
            object(&self.faults),
            object(&self.most)
        )
    }
}

fn add(map: &mut BTreeMap<String, u64>, what: &str, number: impl TryInto<u64>) {
    *map.entry(what.to_owned()).or_default() += clamp(number);
}

fn clamp(number: impl TryInto<u64>) -> u64 {
    number.try_into().unwrap_or(u64::MAX)
}

fn quoted(text: &str) -> String {
    let escape = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

#[test]
fn a_report_is_a_line_of_json() {
    let report = Report::of("a \"suite\"")
        .count("acked", 2_u64)
        .count("acked", 3_usize)
        .count("lost", 0)
        .fault("kill -9", 1_u32)
        .most("recovery ms", 7_u128)
        .most("recovery ms", 5_u128);
    assert_eq!(
        report.to_json(),
        r#"{"suite": "a \"suite\"", "counts": {"acked": 5, "lost": 0}, "faults": {"kill -9": 1}, "most": {"recovery ms": 7}}"#
    );
}
