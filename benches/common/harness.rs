//! Windows that take turns.

use std::time::Duration;

use super::table::{Bar, Beside, Figure, Row, Samples};

/// What the machine can do without this crate, measured in windows between those of the figure.
pub(crate) struct Limit<'a, const N: usize> {
    name: &'static str,
    bar: Option<Bar>,
    run: Box<dyn FnMut() -> [f64; N] + 'a>,
}

impl<'a, const N: usize> Limit<'a, N> {
    pub(crate) fn new(name: &'static str, run: impl FnMut() -> [f64; N] + 'a) -> Self {
        Self {
            name,
            bar: None,
            run: Box::new(run),
        }
    }

    /// What the ratio to it is hoped to be.
    pub(crate) fn bar(self, bar: impl Into<Option<Bar>>) -> Self {
        Self {
            bar: bar.into(),
            ..self
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
    /// Where it goes with each figure, so that whoever stops the run has what was measured.
    path: Option<String>,
}

impl Bench {
    pub(crate) fn new(quick: bool, filter: Option<String>, path: Option<String>) -> Self {
        Self {
            quick,
            window: Duration::from_millis(if quick { 50 } else { 400 }),
            rounds: if quick { 1 } else { 7 },
            filter,
            json: Vec::new(),
            path,
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
        for (index, figure) in figures.into_iter().enumerate() {
            let of = |all: &[[f64; N]]| Samples(all.iter().map(|sample| sample[index]).collect());
            let beside = limits.iter().zip(&theirs).map(|(limit, all)| Beside {
                name: limit.name,
                bar: limit.bar,
                samples: of(all),
            });
            self.report(figure, of(&own), beside.collect());
        }
    }

    /// Measures several figures, all in turns with one limit.
    pub(crate) fn compare(&mut self, mut contenders: Vec<Contender<'_>>, mut limit: Limit<'_, 1>) {
        contenders.retain(|(figure, _)| self.wants(&figure.name));
        if contenders.is_empty() {
            return;
        }
        let mut own = vec![Vec::new(); contenders.len()];
        let mut theirs = Vec::new();
        for round in 0..=self.rounds {
            let [sample] = (limit.run)();
            let samples: Vec<_> = contenders.iter_mut().map(|(_, run)| run()).collect();
            if round > 0 || self.quick {
                theirs.push(sample);
                for (all, sample) in own.iter_mut().zip(samples) {
                    all.push(sample);
                }
            }
        }
        for ((figure, _), own) in contenders.into_iter().zip(own) {
            let beside = Beside {
                name: limit.name,
                bar: limit.bar,
                samples: Samples(theirs.clone()),
            };
            self.report(figure, Samples(own), vec![beside]);
        }
    }

    /// Prints what was measured elsewhere.
    pub(crate) fn report(&mut self, figure: Figure, own: Samples, limits: Vec<Beside>) {
        let row = Row {
            figure,
            own,
            limits,
        };
        row.print();
        self.add(&row);
    }

    /// Keeps what was printed in another way.
    pub(crate) fn keep(&mut self, figure: Figure, own: Samples) {
        let row = Row {
            figure,
            own,
            limits: Vec::new(),
        };
        self.add(&row);
    }

    fn add(&mut self, row: &Row) {
        self.json.push(row.json());
        if let Some(path) = &self.path {
            let all = format!("[\n{}\n]\n", self.json.join(",\n"));
            std::fs::write(path, all).expect("a writable file for --json");
        }
    }
}

/// A figure, and what measures it once.
pub(crate) type Contender<'a> = (Figure, Box<dyn FnMut() -> f64 + 'a>);
