//! Figures, medians, and how they are printed.

use std::fmt::Write as _;
use std::io::Write as _;

/// What is measured, and where.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) runtime: &'static str,
    pub(crate) unit: Unit,
    pub(crate) bar: Option<Bar>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Messages a second, of so many bytes.
    Rate(usize),
    /// Operations a second.
    Operations,
    Nanos,
    Micros,
    Count,
}

/// What the figure is hoped to be. A hint: it depends on the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    /// Of the first limit.
    Ratio(f64),
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, runtime: &'static str, unit: Unit) -> Self {
        Self {
            name: name.into(),
            runtime,
            unit,
            bar: None,
        }
    }

    pub(crate) fn bar(self, bar: Bar) -> Self {
        Self {
            bar: Some(bar),
            ..self
        }
    }
}

/// The names of the columns.
pub(crate) fn print_head() {
    println!(
        "{:<51} {:<7} {:>18} {:>6} {:>16}  {:<24} {:>8} {:>16} {:>22}  bar",
        "figure",
        "runtime",
        "flowstream",
        "MB/s",
        "(min–max)",
        "limit",
        "",
        "(min–max)",
        "ratio (min–max)"
    );
}

/// What one window after the other gave.
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        }
    }

    fn bounds(&self) -> (f64, f64) {
        let sorted = self.sorted();
        (sorted[0], sorted[sorted.len() - 1])
    }

    /// Each pair on its own, so that what slows both down does not show.
    fn ratios(&self, limit: &Self) -> Self {
        let pairs = self.0.iter().zip(&limit.0);
        Self(pairs.map(|(own, limit)| own / limit).collect())
    }
}

pub(crate) struct Row<'a> {
    pub(crate) figure: &'a Figure,
    pub(crate) own: Samples,
    pub(crate) limits: Vec<(&'static str, Samples)>,
}

impl Row<'_> {
    pub(crate) fn print(&self) {
        let Figure {
            name,
            runtime,
            unit,
            ..
        } = self.figure;
        let median = self.own.median();
        let megabytes = match unit {
            Unit::Rate(bytes) => format!("{:.1}", median * *bytes as f64 / 1e6),
            _ => String::new(),
        };
        let mut line = format!(
            "{name:<51} {runtime:<7} {:>18} {megabytes:>6} {:>16}  ",
            text(median, *unit),
            span(&self.own)
        );
        for (index, (limit, samples)) in self.limits.iter().enumerate() {
            if index > 0 {
                let _ = write!(line, "\n{:<104}", "");
            }
            let ratios = self.own.ratios(samples);
            let (low, high) = ratios.bounds();
            // Nothing is a multiple of a limit that is zero.
            let ratio = match high.is_finite() {
                true => format!(
                    "{:.2} {:>14}",
                    ratios.median(),
                    format!("({low:.2}–{high:.2})")
                ),
                false => String::new(),
            };
            let _ = write!(
                line,
                "{limit:<24} {:>8} {:>16} {ratio:>22}",
                short(samples.median()),
                span(samples),
            );
            if index == 0
                && let Some(verdict) = self.verdict()
            {
                let _ = write!(line, "  {verdict}");
            }
        }
        println!("{}", line.trim_end());
        // Rows come one by one, also into a file.
        let _ = std::io::stdout().flush();
    }

    fn verdict(&self) -> Option<String> {
        let own = self.own.median();
        let ratio = self
            .limits
            .first()
            .map(|(_, limit)| self.own.ratios(limit).median());
        let (is_met, bar) = match self.figure.bar? {
            Bar::Ratio(least) => (ratio? >= least, format!("ratio ≥ {least}")),
            Bar::AtLeast(least) => (own >= least, format!("≥ {}", short(least))),
            Bar::AtMost(most) => (own <= most, format!("≤ {}", short(most))),
        };
        Some(format!("{bar}: {}", if is_met { "met" } else { "missed" }))
    }

    pub(crate) fn json(&self) -> String {
        let Figure {
            name,
            runtime,
            unit,
            ..
        } = self.figure;
        let limits = self.limits.iter().map(|(limit, samples)| {
            let ratios = self.own.ratios(samples);
            format!(
                "{{\"limit\": \"{limit}\", \"median\": {}, \"samples\": {:?}, \"ratio\": {}}}",
                samples.median(),
                samples.0,
                Some(ratios.median())
                    .filter(|ratio| ratio.is_finite())
                    .map_or_else(|| "null".to_owned(), |ratio| ratio.to_string())
            )
        });
        format!(
            "  {{\"figure\": \"{name}\", \"runtime\": \"{runtime}\", \"unit\": \"{}\", \
             \"median\": {}, \"samples\": {:?}, \"limits\": [{}]}}",
            unit_name(*unit),
            self.own.median(),
            self.own.0,
            limits.collect::<Vec<_>>().join(", ")
        )
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Rate(_) => "msg/s",
        Unit::Operations => "/s",
        Unit::Nanos => "ns",
        Unit::Micros => "µs",
        Unit::Count => "allocs",
    }
}

fn text(value: f64, unit: Unit) -> String {
    format!("{} {}", short(value), unit_name(unit))
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 1.0 || v == 0.0 => format!("{v:.1}"),
        v => format!("{v:.4}"),
    }
}

fn span(samples: &Samples) -> String {
    let (low, high) = samples.bounds();
    format!(
        "({}–{})",
        short(low).replace(' ', ""),
        short(high).replace(' ', "")
    )
}
