//! Bars beside each other, from zero.

use crate::scale::{Axis, short};
use crate::sheet::{Align, Sheet, class};

pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) spread: [f64; 2],
    pub(crate) series: usize,
    /// What stands behind the value.
    pub(crate) note: String,
}

const LEFT: f64 = 220.0;
const WIDTH: f64 = 400.0;
pub(crate) const ROW: f64 = 24.0;

/// The height that so many take.
pub(crate) fn height(bars: usize) -> f64 {
    ROW * bars as f64 + 82.0
}

pub(crate) fn draw(sheet: &mut Sheet, top: f64, title: &str, unit: &str, bars: &[Bar]) {
    sheet.text([20.0, top + 14.0], "", Align::Start, title);
    let top = top + 26.0;
    let bottom = top + ROW * bars.len() as f64;
    let greatest = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let axis = Axis::linear(unit, greatest);
    let x_of = |value: f64| LEFT + axis.share(value).min(1.0) * WIDTH;
    for (value, text) in &axis.ticks {
        let x = x_of(*value);
        sheet.line([x, top], [x, bottom], "grid");
        sheet.text([x, bottom + 17.0], "small", Align::Middle, text);
    }
    let middle = LEFT + WIDTH / 2.0;
    sheet.text([middle, bottom + 35.0], "small", Align::Middle, &axis.label);
    for (row, bar) in bars.iter().enumerate() {
        let y = top + ROW * row as f64;
        let x = x_of(bar.value);
        sheet.text([LEFT - 10.0, y + 16.0], "", Align::End, &bar.name);
        sheet.area(
            [LEFT, y + 4.0],
            [(x - LEFT).max(1.0), ROW - 8.0],
            class(bar.series),
        );
        let [low, high] = bar.spread.map(x_of);
        sheet.line([low, y + ROW / 2.0], [high, y + ROW / 2.0], "range");
        let text = format!("{}{}", short(bar.value), bar.note);
        sheet.text([high.max(x) + 8.0, y + 16.0], "", Align::Start, &text);
    }
    sheet.line([LEFT, top], [LEFT, bottom], "axis");
}
