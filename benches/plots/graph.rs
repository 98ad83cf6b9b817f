//! Lines over two axes.

use crate::scale::Axis;
use crate::sheet::{Align, Sheet, class};

pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A value, and the least and greatest of what it is the middle of.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) spread: [f64; 2],
}

/// Beside the points of the first series.
#[derive(Clone, Copy)]
pub(crate) enum Labels {
    None,
    Above,
    Below,
}

/// Where a graph is, and what it shows.
pub(crate) struct Graph<'a> {
    pub(crate) at: [f64; 2],
    pub(crate) size: [f64; 2],
    pub(crate) title: &'a str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// What is as good as equal.
    pub(crate) band: Option<[f64; 2]>,
    /// Where the values of the first series stand.
    pub(crate) labels: Labels,
}

impl Graph<'_> {
    pub(crate) fn draw(&self, sheet: &mut Sheet, series: &[Series]) {
        let [left, top] = self.at;
        let [width, height] = self.size;
        let (right, bottom) = (left + width, top + height);
        if let Some([low, high]) = self.band {
            let (low, high) = (self.y_of(low), self.y_of(high));
            sheet.area([left, high], [width, low - high], "band");
        }
        for (value, text) in &self.y.ticks {
            let y = self.y_of(*value);
            sheet.line([left, y], [right, y], "grid");
            sheet.text([left - 8.0, y + 4.0], "small", Align::End, text);
        }
        for (value, text) in &self.x.ticks {
            let x = self.x_of(*value);
            sheet.line([x, bottom], [x, bottom + 5.0], "axis");
            sheet.text([x, bottom + 19.0], "small", Align::Middle, text);
        }
        sheet.line([left, bottom], [right, bottom], "axis");
        sheet.line([left, top], [left, bottom], "axis");
        let middle = left + width / 2.0;
        sheet.text(
            [middle, bottom + 38.0],
            "small",
            Align::Middle,
            &self.x.label,
        );
        sheet.upright([left - 52.0, top + height / 2.0], &self.y.label);
        sheet.text([left, top - 12.0], "", Align::Start, self.title);
        // The first is drawn last, above the others.
        for (index, one) in series.iter().enumerate().rev() {
            self.draw_series(sheet, index, one);
        }
    }

    fn draw_series(&self, sheet: &mut Sheet, index: usize, series: &Series) {
        let place = |point: &Point| [self.x_of(point.x), self.y_of(point.y)];
        let places: Vec<_> = series.points.iter().map(place).collect();
        let dash = if index == 0 { "" } else { " dash" };
        sheet.path(&places, &format!("{}{dash}", class(index)));
        for (point, [x, y]) in series.points.iter().zip(places.clone()) {
            let [low, high] = point.spread.map(|value| self.y_of(value));
            sheet.line([x, low], [x, high], &format!("whisker {}", class(index)));
            sheet.mark([x, y], index);
        }
        if index > 0 {
            return;
        }
        let below = match self.labels {
            Labels::None => return,
            Labels::Above => -11.0,
            Labels::Below => 21.0,
        };
        for (point, [x, y]) in series.points.iter().zip(places) {
            let text = crate::scale::short(point.y);
            sheet.text([x, y + below], "value", Align::Middle, &text);
        }
    }

    fn x_of(&self, value: f64) -> f64 {
        self.at[0] + self.x.share(value) * self.size[0]
    }

    fn y_of(&self, value: f64) -> f64 {
        let share = self.y.share(value).clamp(0.0, 1.0);
        self.at[1] + (1.0 - share) * self.size[1]
    }
}

/// The marks of the series and their names, in a row.
pub(crate) fn legend(sheet: &mut Sheet, [x, y]: [f64; 2], names: &[&str]) {
    let mut x = x;
    for (index, name) in names.iter().enumerate() {
        sheet.path(&[[x, y], [x + 22.0, y]], class(index));
        sheet.mark([x + 11.0, y], index);
        sheet.text([x + 29.0, y + 4.5], "", Align::Start, name);
        x += 29.0 + name.chars().count() as f64 * 7.6 + 22.0;
    }
}

/// Sets a graph's least and greatest value apart from its middle.
pub(crate) fn point(x: f64, samples: &crate::figures::Samples, factor: f64) -> Point {
    Point {
        x,
        y: samples.median() * factor,
        spread: [samples.at(0.0) * factor, samples.at(1.0) * factor],
    }
}
