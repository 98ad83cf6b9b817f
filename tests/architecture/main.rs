//! The layout of `src` is a tower: no files in a circle, floors as `docs/ARCHITECTURE.md` draws them,
//! files and functions that fit on a few screens.
//!
//! The figures of a report, and the top-level modules as a graph for Graphviz:
//!
//! ```text
//! cargo test --test architecture figures -- --ignored --nocapture
//! cargo test --test architecture figures -- --ignored --nocapture | sed -n '/^digraph/,/^}/p' | dot -Tsvg
//! ```

mod bites;
mod figures;
mod floors;
mod graph;
mod names;
mod sizes;
mod source;
mod uses;

use std::path::Path;

use floors::Floors;
use graph::Graph;
use source::Source;

const DRAWING: &str = "docs/ARCHITECTURE.md";

#[test]
fn no_files_stand_in_a_circle() {
    let source = the_source();
    let graph = Graph::of(&source);
    let circles: Vec<String> = graph.circles().iter().map(|c| graph.tell(c)).collect();
    hold(&circles);
}

#[test]
fn files_use_what_is_on_lower_floors() {
    let source = the_source();
    hold(&the_floors().faults_of_uses(&source, &Graph::of(&source)));
}

#[test]
fn the_library_lists_its_modules_from_the_top_floor_down() {
    hold(&the_floors().faults_of_order(&the_source()));
}

#[test]
fn files_and_functions_are_short() {
    hold(&sizes::faults(&the_source()));
}

/// Wide lines are read by nobody. Characters, not bytes.
#[test]
fn the_design_is_at_most_a_hundred_columns_wide() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let parts = std::fs::read_dir(docs.join("design")).expect("the parts of the design");
    let parts = parts.map(|part| part.expect("a part").path());
    let mut wide = Vec::new();
    for part in parts.chain([docs.join("ARCHITECTURE.md")]) {
        let text = std::fs::read_to_string(&part).expect("a text");
        let lines = text.lines().zip(1..);
        let lines = lines.filter(|(line, _)| line.chars().count() > 100);
        wide.extend(lines.map(|(_, number)| format!("{}:{number}", part.display())));
    }
    hold(&wide);
}

#[test]
#[ignore = "prints figures, checks nothing"]
fn figures() {
    let source = the_source();
    let graph = Graph::of(&source);
    eprintln!("{}", figures::table(&source, &graph));
    // The harness may have begun a line.
    println!("\n{}", figures::dot(&graph));
}

fn the_source() -> Source {
    Source::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

fn the_floors() -> Floors {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DRAWING);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{DRAWING} cannot be read, and it draws the floors that this test holds: {error}")
    });
    Floors::parse(&text).unwrap_or_else(|fault| panic!("{DRAWING}: {fault}"))
}

#[track_caller]
fn hold(faults: &[String]) {
    assert!(faults.is_empty(), "\n\n{}\n", faults.join("\n"));
}
