//! A sheet of vector graphics that can be read on a light and on a dark page.

use std::fmt::Write as _;

pub(crate) struct Sheet {
    width: f64,
    height: f64,
    body: String,
}

/// Where a text begins, ends, or has its middle.
#[derive(Clone, Copy)]
pub(crate) enum Align {
    Start,
    Middle,
    End,
}

/// Colours of series are distinct for most eyes, and each has a mark of its own.
const STYLE: &str = "
text { font: 13px system-ui, 'DejaVu Sans', sans-serif; fill: #1f2933 }
.title { font-size: 16px; font-weight: 600 }
.small { font-size: 11.5px; fill: #52606d }
.page { fill: #ffffff }
.grid { stroke: #d9dee4; stroke-width: 1 }
.axis { stroke: #7b8794; stroke-width: 1 }
.band { fill: #52606d; fill-opacity: .12 }
.line { fill: none; stroke-width: 2.2 }
.dash { stroke-dasharray: 6 4 }
.whisker { stroke-width: 1.4; stroke-opacity: .55 }
.s0 { stroke: #0b66c3; fill: #0b66c3 } .s1 { stroke: #c2500a; fill: #c2500a }
.s2 { stroke: #6b7683; fill: #6b7683 } .s3 { stroke: #17803d; fill: #17803d }
.s4 { stroke: #8a3ab9; fill: #8a3ab9 }
.value { font-size: 12px; stroke: #ffffff; stroke-width: 3.5; paint-order: stroke }
.range { stroke: #1f2933; stroke-width: 1.4 }
.dot { fill-opacity: .45; stroke: none }
.line.s0, .line.s1, .line.s2, .line.s3, .line.s4 { fill: none }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb } .small { fill: #a6b0bb } .page { fill: #161b22 }
  .value { stroke: #161b22 } .range { stroke: #ffffff }
  .grid { stroke: #323a45 } .axis { stroke: #7b8794 } .band { fill: #cbd2d9 }
  .s0 { stroke: #5aa9ff; fill: #5aa9ff } .s1 { stroke: #ff9b52; fill: #ff9b52 }
  .s2 { stroke: #a6b0bb; fill: #a6b0bb } .s3 { stroke: #4cc771; fill: #4cc771 }
  .s4 { stroke: #cf92f2; fill: #cf92f2 }
}
";

impl Sheet {
    pub(crate) fn new(width: f64, height: f64, title: &str, below: &str) -> Self {
        let mut sheet = Self {
            width,
            height,
            body: String::new(),
        };
        sheet.text([20.0, 30.0], "title", Align::Start, title);
        sheet.text([20.0, 50.0], "small", Align::Start, below);
        sheet
    }

    pub(crate) fn svg(&self) -> String {
        let Self {
            width,
            height,
            body,
        } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\">\n<style>{STYLE}</style>\n\
             <rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>\n{body}</svg>\n"
        )
    }

    pub(crate) fn text(&mut self, [x, y]: [f64; 2], class: &str, align: Align, text: &str) {
        let anchor = align.name();
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// Upwards, along an axis.
    pub(crate) fn upright(&mut self, [x, y]: [f64; 2], text: &str) {
        let text = escaped(text);
        let _ = writeln!(
            self.body,
            "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\" text-anchor=\"middle\" \
             class=\"small\">{text}</text>"
        );
    }

    pub(crate) fn line(&mut self, [x, y]: [f64; 2], [to_x, to_y]: [f64; 2], class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{to_x:.1}\" y2=\"{to_y:.1}\" class=\"{class}\"/>"
        );
    }

    pub(crate) fn path(&mut self, points: &[[f64; 2]], class: &str) {
        let points = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}"));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            self.body,
            "<polyline points=\"{points}\" class=\"line {class}\"/>"
        );
    }

    pub(crate) fn area(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], class: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             class=\"{class}\"/>"
        );
    }

    pub(crate) fn dot(&mut self, [x, y]: [f64; 2], radius: f64, class: &str) {
        let _ = writeln!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"{class}\"/>"
        );
    }

    /// The mark of a series.
    pub(crate) fn mark(&mut self, [x, y]: [f64; 2], series: usize) {
        let class = class(series);
        let corners: &[[f64; 2]] = match series % 5 {
            1 => &[[-4.0, -4.0], [4.0, -4.0], [4.0, 4.0], [-4.0, 4.0]],
            2 => &[[0.0, -5.0], [5.0, 4.0], [-5.0, 4.0]],
            3 => &[[0.0, -5.5], [5.5, 0.0], [0.0, 5.5], [-5.5, 0.0]],
            4 => &[[-5.0, -4.0], [5.0, -4.0], [0.0, 5.0]],
            _ => return self.dot([x, y], 4.5, class),
        };
        let points = corners.iter();
        let points = points.map(|[dx, dy]| format!("{:.1},{:.1}", x + dx, y + dy));
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            self.body,
            "<polygon points=\"{points}\" class=\"{class}\"/>"
        );
    }
}

impl Align {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// The class of a series.
pub(crate) fn class(series: usize) -> &'static str {
    ["s0", "s1", "s2", "s3", "s4"][series % 5]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
