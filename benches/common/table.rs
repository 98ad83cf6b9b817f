//! Figures, medians, and how they are printed.

use std::fmt::Write as _;
use std::io::Write as _;

/// What is measured, and where.
#[derive(Debug, Clone)]
pub(crate) struct Figure {
    pub(crate) name: String,
    /// On which runtime, through which connection.
    pub(crate) setting: &'static str,
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
    /// Bytes a message.
    Bytes,
    /// Bytes.
    Memory,
}

/// What the figure is hoped to be. A hint: it depends on the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(name: impl Into<String>, setting: &'static str, unit: Unit) -> Self {
        Self {
            name: name.into(),
            setting,
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

impl Bar {
    fn verdict(self, value: f64) -> String {
        let (is_met, bar) = match self {
            Self::AtLeast(least) => (value >= least, format!("≥ {}", bound(least))),
            Self::AtMost(most) => (value <= most, format!("≤ {}", bound(most))),
        };
        format!("{bar}: {}", if is_met { "met" } else { "missed" })
    }
}

/// The names of the columns.
pub(crate) fn print_head(setting: &str) {
    println!(
        "{:<51} {:<7} {:>18} {:>6} {:>16}  {:<24} {:>8} {:>16} {:>22}  bar",
        "figure",
        setting,
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

/// What stands beside a figure.
pub(crate) struct Beside {
    pub(crate) name: &'static str,
    /// Of the ratio.
    pub(crate) bar: Option<Bar>,
    pub(crate) samples: Samples,
}

pub(crate) struct Row {
    pub(crate) figure: Figure,
    pub(crate) own: Samples,
    pub(crate) limits: Vec<Beside>,
}

impl Row {
    pub(crate) fn print(&self) {
        let Figure {
            name,
            setting,
            unit,
            ..
        } = &self.figure;
        let median = self.own.median();
        let megabytes = match unit {
            Unit::Rate(bytes) => format!("{:.1}", median * *bytes as f64 / 1e6),
            _ => String::new(),
        };
        let mut line = format!(
            "{name:<51} {setting:<7} {:>18} {megabytes:>6} {:>16}  ",
            text(median, *unit),
            span(&self.own)
        );
        for (index, limit) in self.limits.iter().enumerate() {
            let Beside { name, bar, samples } = limit;
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
                "{name:<24} {:>8} {:>16} {ratio:>22}",
                short(samples.median()),
                span(samples),
            );
            if let Some(bar) = bar {
                let _ = write!(line, "  ratio {}", bar.verdict(ratios.median()));
            }
            if index == 0
                && let Some(bar) = self.figure.bar
            {
                let _ = write!(line, "  {}", bar.verdict(median));
            }
        }
        if self.limits.is_empty()
            && let Some(bar) = self.figure.bar
        {
            let _ = write!(line, "{:<92}  {}", "", bar.verdict(median));
        }
        println!("{}", line.trim_end());
        // Rows come one by one, also into a file.
        let _ = std::io::stdout().flush();
    }

    pub(crate) fn json(&self) -> String {
        let Figure {
            name,
            setting,
            unit,
            ..
        } = &self.figure;
        let limits = self.limits.iter().map(|limit| {
            let Beside { name, samples, .. } = limit;
            let ratios = self.own.ratios(samples);
            format!(
                "{{\"limit\": \"{name}\", \"median\": {}, \"samples\": {:?}, \"ratio\": {}}}",
                samples.median(),
                samples.0,
                Some(ratios.median())
                    .filter(|ratio| ratio.is_finite())
                    .map_or_else(|| "null".to_owned(), |ratio| ratio.to_string())
            )
        });
        format!(
            "  {{\"figure\": \"{name}\", \"setting\": \"{setting}\", \"unit\": \"{}\", \
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
        Unit::Bytes => "B/msg",
        Unit::Memory => "B",
    }
}

fn text(value: f64, unit: Unit) -> String {
    format!("{} {}", short(value), unit_name(unit))
}

/// A bar is a number that somebody chose.
fn bound(value: f64) -> String {
    if value >= 100.0 {
        short(value)
    } else {
        value.to_string()
    }
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
