//! What goes on, and what it came to.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::Worked;
use crate::input::Source;

/// Two bars on a terminal, nothing elsewhere, and a summary at the end. Clones show the same.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Inner>);

struct Inner {
    bars: MultiProgress,
    /// In bytes.
    reading: ProgressBar,
    /// In lines.
    working: ProgressBar,
    started: Instant,
    sent: Side,
    worked: Side,
    words: AtomicU64,
    /// Of all lines, whatever their order.
    hash: AtomicU64,
}

#[derive(Default)]
struct Side {
    lines: AtomicU64,
    bytes: AtomicU64,
    took: OnceLock<Duration>,
}

impl Progress {
    /// `backlog` lines are in the stream and not worked on.
    pub(crate) fn new(sources: &[Source], backlog: u64) -> Self {
        let bars = MultiProgress::new();
        let reading = match sources.iter().map(|source| source.bytes).sum() {
            Some(bytes) => bar(
                bytes,
                "{prefix:8} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}",
            ),
            None => bar(0, "{prefix:8} {spinner} {bytes} {bytes_per_sec}"),
        };
        let working = bar(
            backlog,
            "{prefix:8} {wide_bar} {human_pos}/{human_len} lines",
        );
        let (reading, working) = (bars.add(reading), bars.add(working));
        for (bar, prefix) in [(&reading, "reading"), (&working, "working")] {
            bar.set_prefix(prefix);
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self(Arc::new(Inner {
            bars,
            reading,
            working,
            started: Instant::now(),
            sent: Side::default(),
            worked: Side::default(),
            words: AtomicU64::new(0),
            hash: AtomicU64::new(0),
        }))
    }

    /// So much of the input was read, with so many new lines.
    pub(crate) fn read(&self, bytes: usize, lines: usize) {
        self.0.reading.inc(bytes as u64);
        self.0.working.inc_length(lines as u64);
    }

    /// A line was given to the producer.
    pub(crate) fn sent(&self, bytes: usize) {
        self.0.sent.count(bytes as u64);
    }

    /// The group is done with a line.
    pub(crate) fn worked(&self, line: &Worked) {
        let lines = self.0.worked.count(line.bytes);
        self.0.words.fetch_add(line.words, Relaxed);
        self.0.hash.fetch_xor(line.hash, Relaxed);
        if lines.is_multiple_of(1024) {
            self.0.working.set_position(lines);
        }
    }

    pub(crate) fn all_sent(&self) {
        self.0.sent.took.get_or_init(|| self.0.started.elapsed());
    }

    pub(crate) fn all_worked(&self) {
        self.0.worked.took.get_or_init(|| self.0.started.elapsed());
    }

    /// Says something between the bars.
    pub(crate) fn note(&self, text: &str) {
        self.0.bars.suspend(|| eprintln!("{text}"));
    }

    /// Takes the bars away.
    pub(crate) fn finish(&self) {
        self.0.reading.finish_and_clear();
        self.0.working.finish_and_clear();
        self.all_sent();
        self.all_worked();
    }

    pub(crate) fn summary(&self) {
        println!("sent    {}", self.0.sent.summary());
        let (words, hash) = (self.0.words.load(Relaxed), self.0.hash.load(Relaxed));
        println!("worked  {}", self.0.worked.summary());
        println!("words   {}, hash of all lines {hash:016x}", grouped(words));
    }
}

impl Side {
    /// Counts a line, and gives their number.
    fn count(&self, bytes: u64) -> u64 {
        self.bytes.fetch_add(bytes, Relaxed);
        self.lines.fetch_add(1, Relaxed) + 1
    }

    fn summary(&self) -> String {
        let (lines, bytes) = (self.lines.load(Relaxed), self.bytes.load(Relaxed));
        let seconds = self.took.get().map_or(0.0, Duration::as_secs_f64);
        if lines == 0 {
            return "nothing new".to_owned();
        }
        let a_second = |amount: f64| amount / seconds.max(1e-6);
        let megabytes = bytes as f64 / 1e6;
        format!(
            "{} messages, {megabytes:.1} MB in {seconds:.2} s: {} messages/s, {:.1} MB/s",
            grouped(lines),
            grouped(a_second(lines as f64) as u64),
            a_second(megabytes)
        )
    }
}

fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}
