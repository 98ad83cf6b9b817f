//! Windows that take turns.

use std::time::Duration;

use crate::table::{Figure, Row, Samples};

/// What the machine can do without this crate, measured in windows between those of the figure.
pub(crate) struct Limit<'a, const N: usize> {
    name: &'static str,
    run: Box<dyn FnMut() -> [f64; N] + 'a>,
}

impl<'a, const N: usize> Limit<'a, N> {
    pub(crate) fn new(name: &'static str, run: impl FnMut() -> [f64; N] + 'a) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }
}

pub(crate) struct Bench {
    pub(crate) quick: bool,
    /// How long a window lasts that is not bounded by a number of messages.
    pub(crate) window: Duration,
    rounds: usize,
    filter: Option<String>,
    json: Vec<String>,
}

impl Bench {
    pub(crate) fn new(quick: bool, filter: Option<String>) -> Self {
        Self {
            quick,
            window: Duration::from_millis(if quick { 50 } else { 400 }),
            rounds: if quick { 1 } else { 7 },
            filter,
            json: Vec::new(),
        }
    }

    /// Whether a case is wanted.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|part| name.contains(part))
    }

    /// So many, or a small part of it for a quick run.
    pub(crate) fn count(&self, count: usize) -> usize {
        if self.quick { count / 20 } else { count }
    }

    /// Measures figures that come from one window, in turns with their limits, and prints them.
    pub(crate) fn measure<const N: usize>(
        &mut self,
        figures: [Figure; N],
        mut ours: impl FnMut() -> [f64; N],
        mut limits: Vec<Limit<'_, N>>,
    ) {
        if !figures.iter().any(|figure| self.wants(&figure.name)) {
            return;
        }
        let mut own = Vec::new();
        let mut theirs = vec![Vec::new(); limits.len()];
        for round in 0..=self.rounds {
            let sample = ours();
            let limit_samples: Vec<_> = limits.iter_mut().map(|limit| (limit.run)()).collect();
            // The first round warms up.
            if round > 0 || self.quick {
                own.push(sample);
                for (all, sample) in theirs.iter_mut().zip(limit_samples) {
                    all.push(sample);
                }
            }
        }
        for (index, figure) in figures.iter().enumerate() {
            let row = Row {
                figure,
                own: Samples(own.iter().map(|sample| sample[index]).collect()),
                limits: limits
                    .iter()
                    .zip(&theirs)
                    .map(|(limit, all)| {
                        let samples = all.iter().map(|sample| sample[index]).collect();
                        (limit.name, Samples(samples))
                    })
                    .collect(),
            };
            row.print();
            self.json.push(row.json());
        }
    }

    /// Everything that was measured.
    pub(crate) fn json(&self) -> String {
        format!("[\n{}\n]\n", self.json.join(",\n"))
    }
}
