//! How long a message is under way to another process.

use crate::figures::Figures;
use crate::graph::{Graph, Labels, Series, legend, point};
use crate::scale::Axis;
use crate::sheet::Sheet;

pub(crate) fn latency(figures: &Figures) -> Option<Sheet> {
    let found: Vec<_> = figures
        .after("latency to another process, ", "socket")
        .collect();
    if found.len() < 2 {
        return None;
    }
    let texts: Vec<String> = found.iter().map(|(part, _)| (*part).to_owned()).collect();
    let bare = "INSERT, NOTIFY, SELECT";
    let ours = found.iter().enumerate();
    let ours = ours.map(|(at, (_, it))| point(at as f64, &it.own, 1e-3));
    let limit = found.iter().enumerate();
    let limit = limit.filter_map(|(at, (_, it))| Some(point(at as f64, it.limit(bare)?, 1e-3)));
    let series = [
        Series {
            name: "flowstream: send to delivery".to_owned(),
            points: ours.collect(),
        },
        Series {
            name: "limit: INSERT, NOTIFY, SELECT by hand".to_owned(),
            points: limit.collect(),
        },
    ];
    let mut sheet = Sheet::new(
        760.0,
        470.0,
        "PostgreSQL: from send to delivery in another process",
        "one message at a time, each durable; medians, least and greatest window of each percentile",
    );
    let values = series
        .iter()
        .flat_map(|one| &one.points)
        .map(|point| point.y);
    let names: Vec<_> = series.iter().map(|one| one.name.as_str()).collect();
    legend(&mut sheet, [40.0, 78.0], &names);
    let graph = Graph {
        at: [80.0, 120.0],
        size: [650.0, 290.0],
        title: "",
        x: Axis::steps("percentile of the messages", &texts),
        y: Axis::log("milliseconds", values),
        band: None,
        labels: Labels::Above,
    };
    graph.draw(&mut sheet, &series);
    Some(sheet)
}
