//! Draws what the benchmarks measured.
//!
//! ```text
//! cargo bench --bench plots -- FIGURES PLOTS     from FIGURES/*.json (what --json wrote) into PLOTS/*.svg
//! ```
//!
//! `benches/run` does all of it. A plot whose figures are not there is not drawn.

mod bars;
mod figures;
mod graph;
mod latency;
mod rivals;
mod scale;
mod sheet;
mod sizes;
mod takeover;
mod throughput;

use std::path::Path;

use figures::Figures;
use sheet::Sheet;

/// The name of a file, and what draws it.
type Plot = (&'static str, fn(&Figures) -> Option<Sheet>);

const PLOTS: [Plot; 9] = [
    ("throughput-postgres", throughput::postgres),
    ("throughput-redb", throughput::redb),
    ("latency", latency::latency),
    ("takeover", takeover::takeover),
    ("growth-postgres", sizes::growth_postgres),
    ("growth-redb", sizes::growth_redb),
    ("idle", sizes::idle),
    ("pinned", sizes::pinned),
    ("rivals", rivals::rivals),
];

fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    // Run by `cargo bench` or `cargo test` among the others: there is nothing to draw.
    let [from, to] = &words[..] else { return };
    let figures = Figures::read(Path::new(from));
    std::fs::create_dir_all(to).expect("a directory for the plots");
    for (name, draw) in PLOTS {
        let Some(sheet) = draw(&figures) else {
            println!("{name}: no figures");
            continue;
        };
        let path = Path::new(to).join(name).with_extension("svg");
        std::fs::write(&path, sheet.svg()).expect("a writable file");
        println!("{}", path.display());
    }
}
