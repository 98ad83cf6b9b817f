//! What somebody would use instead.

use crate::bars::{self, Bar};
use crate::figures::{Figure, Figures, Samples};
use crate::scale::short;
use crate::sheet::Sheet;

/// The end of a figure's name, what it is, its unit, and what makes that of the samples.
const PARTS: [(&str, &str, &str, f64); 3] = [
    (
        "produce, 1,000 each",
        "One producer, durable at each 1,000 messages",
        "messages a second",
        1.0,
    ),
    (
        "consume, commit each 1,000",
        "One consumer, its place durable at each 1,000",
        "messages a second",
        1.0,
    ),
    (
        "send to delivery, p50",
        "From send to delivery, median (less is better)",
        "milliseconds",
        1e-3,
    ),
];

pub(crate) fn rivals(figures: &Figures) -> Option<Sheet> {
    let found = PARTS.iter().filter_map(|part| {
        let figure = figures
            .after("rivals: ", "")
            .find(|(rest, _)| *rest == part.0);
        Some((part, bars(figure?.1, part.3)))
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return None;
    }
    let height: f64 = found.iter().map(|(_, bars)| bars::height(bars.len())).sum();
    let mut sheet = Sheet::new(
        760.0,
        height + 80.0,
        "What somebody would use instead, on the same machine",
        "100 bytes each; medians, least and greatest window; in brackets: flowstream on PostgreSQL as a \
         multiple",
    );
    let mut top = 70.0;
    for ((_, title, unit, _), bars) in &found {
        bars::draw(&mut sheet, top, title, unit, bars);
        top += bars::height(bars.len());
    }
    Some(sheet)
}

/// Ours, then the others, the best first.
fn bars(figure: &Figure, factor: f64) -> Vec<Bar> {
    let bar = |name: &str, samples: &Samples, note: String| Bar {
        name: name.to_owned(),
        value: samples.median() * factor,
        spread: [samples.at(0.0) * factor, samples.at(1.0) * factor],
        series: if name.starts_with("flowstream") { 0 } else { 2 },
        note,
    };
    let mut bars = vec![bar("flowstream, PostgreSQL", &figure.own, String::new())];
    let mut others: Vec<Bar> = figure
        .limits
        .iter()
        .map(|(name, samples)| {
            let ratio = figure.own.ratios(samples).median();
            bar(name, samples, format!("  (× {})", short(ratio)))
        })
        .collect();
    others.sort_by(|one, other| other.value.total_cmp(&one.value));
    // Of times the least is the best.
    if factor < 1.0 {
        others.reverse();
    }
    bars.extend(others);
    bars
}
