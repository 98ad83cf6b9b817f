//! What does not become dearer as there is more of something.

use crate::figures::{Figures, number};
use crate::graph::{Graph, Labels, Point, Series, legend, point};
use crate::scale::{Axis, short};
use crate::sheet::Sheet;

const OPERATIONS: [&str; 3] = ["append", "read the end", "commit"];

/// What grows, how much of it the others stand beside, and its name.
const KINDS: [(&str, f64, &str); 3] = [
    ("messages", 100_000.0, "messages in the log"),
    ("streams", 1.0, "streams in the storage"),
    ("groups", 1.0, "groups of the stream"),
];

pub(crate) fn growth_postgres(figures: &Figures) -> Option<Sheet> {
    growth(
        figures,
        "growth: ",
        "PostgreSQL: what an operation costs as there is more",
    )
}

pub(crate) fn growth_redb(figures: &Figures) -> Option<Sheet> {
    growth(
        figures,
        "redb: growth: ",
        "redb: what an operation costs as there is more",
    )
}

fn growth(figures: &Figures, start: &str, title: &str) -> Option<Sheet> {
    figures.after(start, "").next()?;
    let mut sheet = Sheet::new(
        1000.0,
        400.0,
        title,
        "time of one operation, as a multiple of the time with the least; medians of pairs that take \
         turns, middle half of them; grey: within 10 %",
    );
    legend(&mut sheet, [40.0, 78.0], &OPERATIONS);
    for (index, (kind, least, label)) in KINDS.into_iter().enumerate() {
        let series = OPERATIONS.map(|operation| {
            let base = Point {
                x: least,
                y: 1.0,
                spread: [1.0; 2],
            };
            let more = figures.after(start, "").filter_map(|(rest, it)| {
                let size = rest.strip_prefix(operation)?.strip_prefix(", ")?;
                let size = number(size.strip_suffix(kind)?)?;
                let (_, small) = it.limits.first()?;
                // Of rates: the small one's over the large one's is the ratio of times.
                let cost = small.ratios(&it.own);
                Some(Point {
                    x: size,
                    y: cost.median(),
                    spread: [cost.at(0.25), cost.at(0.75)],
                })
            });
            Series {
                name: operation.to_owned(),
                points: std::iter::once(base).chain(more).collect(),
            }
        });
        let sizes: Vec<f64> = series[0].points.iter().map(|point| point.x).collect();
        let mut x = Axis::log(label, sizes.iter().copied());
        x.low = least / 1.3;
        x.high = sizes.iter().copied().fold(least, f64::max) * 1.6;
        x.ticks = sizes.iter().map(|size| (*size, short(*size))).collect();
        let costs = series.iter().flat_map(|one| &one.points);
        let greatest = costs.map(|point| point.spread[1]).fold(1.4, f64::max);
        let y = Axis::linear("times the cost", greatest);
        let graph = Graph {
            at: [80.0 + 310.0 * index as f64, 120.0],
            size: [225.0, 220.0],
            title: "",
            x,
            y,
            band: Some([0.9, 1.1]),
            labels: Labels::None,
        };
        graph.draw(&mut sheet, &series);
    }
    Some(sheet)
}

pub(crate) fn idle(figures: &Figures) -> Option<Sheet> {
    let series = |start| {
        let found = figures.after(start, "socket");
        found.filter_map(|(rest, it)| Some((number(rest)?, it)))
    };
    let statements = series("idle: transactions, ").map(|(x, it)| point(x, &it.own, 1.0));
    let statements: Vec<_> = statements.collect();
    let memory = series("idle: memory of each, ").map(|(x, it)| point(x, &it.own, 1e-3));
    let memory: Vec<_> = memory.collect();
    if statements.is_empty() || memory.is_empty() {
        return None;
    }
    let mut sheet = Sheet::new(
        760.0,
        400.0,
        "PostgreSQL: what consumers cost that have nothing to do",
        "each on a stream of its own, all in one process",
    );
    let halves = [
        ("statements a second, of all of them", statements),
        ("kB of memory, each", memory),
    ];
    for (index, (label, points)) in halves.into_iter().enumerate() {
        let greatest = points.iter().map(|point| point.y).fold(1.0, f64::max);
        let sizes = points.iter().map(|point| point.x);
        let mut x = Axis::log("consumers", sizes.clone());
        x.low /= 1.3;
        x.high *= 1.3;
        x.ticks = sizes.map(|size| (size, short(size))).collect();
        let graph = Graph {
            at: [80.0 + 370.0 * index as f64, 110.0],
            size: [270.0, 230.0],
            title: "",
            x,
            y: Axis::linear(label, greatest),
            band: None,
            labels: Labels::Above,
        };
        let series = Series {
            name: String::new(),
            points,
        };
        graph.draw(&mut sheet, &[series]);
    }
    Some(sheet)
}

/// What is measured under a pinned snapshot, and its name.
const BUILT: [(&str, &str); 5] = [
    ("appends, ", "append"),
    ("commits, ", "commit"),
    ("outbox moves, ", "outbox move"),
    ("acks folded, ", "ack of a transaction"),
    ("trims, ", "trim"),
];
const NOT_TAKEN: [(&str, &str); 2] = [
    ("appends by UPDATE heads, ", "append by UPDATE"),
    ("commits by UPDATE groups, ", "commit by UPDATE"),
];

pub(crate) fn pinned(figures: &Figures) -> Option<Sheet> {
    let parts = [
        ("", Vec::from(BUILT.map(|work| of_work(figures, work)))),
        (
            "ways not taken: a row that is updated",
            Vec::from(NOT_TAKEN.map(|work| of_work(figures, work))),
        ),
    ];
    let has_points = |series: &[Series]| series.iter().any(|one| !one.points.is_empty());
    if !parts.iter().any(|(_, series)| has_points(series)) {
        return None;
    }
    let mut sheet = Sheet::new(
        760.0,
        750.0,
        "PostgreSQL: while another session keeps a snapshot open",
        "rate as a share of that without a snapshot; medians of pairs that take turns, middle half of them",
    );
    for (index, (title, series)) in parts.into_iter().enumerate() {
        let top = 78.0 + 360.0 * index as f64;
        let names: Vec<_> = series.iter().map(|one| one.name.as_str()).collect();
        legend(&mut sheet, [30.0, top], &names);
        let last = series.iter().flat_map(|one| &one.points);
        let last = last.map(|point| point.x).fold(1.0, f64::max);
        let mut x = Axis::linear("thousand operations since the snapshot was taken", last);
        x.high = last * 1.03;
        x.ticks.retain(|(value, _)| *value <= last);
        let mut y = Axis::linear("share of the rate without a snapshot", 1.2);
        y.high = 1.4;
        let graph = Graph {
            at: [80.0, top + 42.0],
            size: [650.0, 220.0],
            title,
            x,
            y,
            band: Some([0.9, 1.1]),
            labels: Labels::None,
        };
        graph.draw(&mut sheet, &series);
    }
    Some(sheet)
}

fn of_work(figures: &Figures, (work, name): (&str, &str)) -> Series {
    let found = figures.after("pinned: ", "socket");
    let points = found.filter_map(|(rest, it)| {
        let (_, to) = rest.strip_prefix(work)?.split_once(" to ")?;
        let ratios = it.own.ratios(&it.limits.first()?.1);
        Some(Point {
            x: number(to)? / 1e3,
            y: ratios.median(),
            spread: [ratios.at(0.25), ratios.at(0.75)],
        })
    });
    Series {
        name: name.to_owned(),
        points: points.collect(),
    }
}
