//! Messages a second by the number that become durable together, beside the limits.

use crate::figures::{Figures, number};
use crate::graph::{Graph, Labels, Series, legend, point};
use crate::scale::Axis;
use crate::sheet::Sheet;

pub(crate) fn postgres(figures: &Figures) -> Option<Sheet> {
    draw(
        figures,
        "produce, flush each ",
        "socket",
        "PostgreSQL: durable messages a second",
        &[
            ("blob", "limit: the same bytes as one value"),
            ("rows", "a row a message"),
        ],
    )
}

pub(crate) fn redb(figures: &Figures) -> Option<Sheet> {
    draw(
        figures,
        "redb: produce, flush each ",
        "multi",
        "redb: durable messages a second",
        &[
            (
                "redb, one value",
                "limit: redb, the same bytes as one value",
            ),
            ("file, append + fdatasync", "a bare file"),
        ],
    )
}

fn draw(
    figures: &Figures,
    start: &str,
    setting: &str,
    title: &str,
    limits: &[(&str, &str)],
) -> Option<Sheet> {
    let found = figures.after(start, setting);
    let mut found: Vec<_> = found
        .filter(|(rest, _)| rest.chars().all(|c| c.is_ascii_digit() || c == ','))
        .filter_map(|(rest, figure)| Some((number(rest)?, figure)))
        .collect();
    found.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    if found.len() < 2 {
        return None;
    }
    let mut series = vec![Series {
        name: "flowstream".to_owned(),
        points: found
            .iter()
            .map(|(x, it)| point(*x, &it.own, 1.0))
            .collect(),
    }];
    for (limit, name) in limits {
        let points = found
            .iter()
            .filter_map(|(x, it)| Some(point(*x, it.limit(limit)?, 1.0)));
        series.push(Series {
            name: (*name).to_owned(),
            points: points.collect(),
        });
    }
    let below =
        "100 bytes each, one producer, an fsync for each batch; medians, least and greatest window";
    let mut sheet = Sheet::new(760.0, 470.0, title, below);
    let values = series
        .iter()
        .flat_map(|one| &one.points)
        .map(|point| point.y);
    let y = Axis::log("messages a second", values);
    let mut x = Axis::log(
        "messages that become durable together",
        found.iter().map(|(x, _)| *x),
    );
    x.low = 0.6;
    x.high = found[found.len() - 1].0 * 1.4;
    let ticks = found.iter().map(|(value, _)| *value);
    x.ticks = ticks
        .map(|value| (value, crate::scale::short(value)))
        .collect();
    let names: Vec<_> = series.iter().map(|one| one.name.as_str()).collect();
    legend(&mut sheet, [40.0, 78.0], &names);
    let graph = Graph {
        at: [80.0, 120.0],
        size: [650.0, 290.0],
        title: "",
        x,
        y,
        band: None,
        labels: Labels::Below,
    };
    graph.draw(&mut sheet, &series);
    Some(sheet)
}
