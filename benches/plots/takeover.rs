//! How long a group stands still when its owner goes: each time a dot.

use crate::figures::Figures;
use crate::scale::{Axis, short};
use crate::sheet::{Align, Sheet};

const LEFT: f64 = 220.0;
const WIDTH: f64 = 440.0;
const ROW: f64 = 34.0;
const TOP: f64 = 90.0;

pub(crate) fn takeover(figures: &Figures) -> Option<Sheet> {
    let found: Vec<_> = figures.after("takeover: ", "").collect();
    if found.is_empty() {
        return None;
    }
    let bottom = TOP + ROW * found.len() as f64;
    let mut sheet = Sheet::new(
        760.0,
        bottom + 60.0,
        "PostgreSQL: until a standby is active when the owner goes",
        "real processes; a dot is a takeover, a line the median, which is written at the end",
    );
    let values = found.iter().flat_map(|(_, it)| &it.own.0);
    let axis = Axis::log(
        "from the moment in which the owner goes",
        values.map(|micros| micros / 1e3),
    );
    let x_of = |millis: f64| LEFT + axis.share(millis) * WIDTH;
    for (value, _) in &axis.ticks {
        let (x, text) = (x_of(*value), &time(*value));
        sheet.line([x, TOP], [x, bottom], "grid");
        sheet.text([x, bottom + 19.0], "small", Align::Middle, text);
    }
    sheet.line([LEFT, bottom], [LEFT + WIDTH, bottom], "axis");
    let middle = LEFT + WIDTH / 2.0;
    sheet.text([middle, bottom + 40.0], "small", Align::Middle, &axis.label);
    for (row, (name, figure)) in found.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.5);
        sheet.text([LEFT - 12.0, y + 4.5], "", Align::End, name);
        for (index, micros) in figure.own.0.iter().enumerate() {
            // Beside each other where they are alike.
            let beside = ((index * 7) % 11) as f64 - 5.0;
            sheet.dot([x_of(micros / 1e3), y + beside], 3.0, "dot s0");
        }
        let median = figure.own.median() / 1e3;
        let x = x_of(median);
        sheet.line([x, y - 12.0], [x, y + 12.0], "line s1");
        sheet.text(
            [LEFT + WIDTH + 12.0, y + 4.5],
            "",
            Align::Start,
            &time(median),
        );
    }
    Some(sheet)
}

fn time(millis: f64) -> String {
    match millis {
        1e3.. => format!("{} s", short(millis / 1e3)),
        _ => format!("{} ms", short(millis)),
    }
}
