//! This test finds what it is there to find: small trees, each with a fault.

use super::figures;
use super::floors::Floors;
use super::graph::Graph;
use super::sizes;
use super::source::Source;

/// Files by their paths below `src`.
fn source(files: &[(&str, &str)]) -> Source {
    let files = files.iter();
    Source::parse(files.map(|(path, text)| (format!("src/{path}"), (*text).to_owned())))
}

fn graph(files: &[(&str, &str)]) -> Graph {
    Graph::of(&source(files))
}

/// Each use as "from -> to: names", in order.
fn edges(files: &[(&str, &str)]) -> Vec<String> {
    let graph = graph(files);
    let mut edges = Vec::new();
    for node in &graph.files {
        for (to, names) in &node.uses {
            let names: Vec<&str> = names.keys().map(String::as_str).collect();
            let (from, to) = (node.module.join("/"), graph.files[*to].module.join("/"));
            edges.push(format!("{from} -> {to}: {}", names.join(" ")));
        }
    }
    edges.sort();
    edges
}

fn floors(lines: &str) -> Floors {
    Floors::parse(&format!("# Floors\n\n```floors\n{lines}\n```\n")).unwrap()
}

fn faults_of_uses(lines: &str, files: &[(&str, &str)]) -> Vec<String> {
    floors(lines).faults_of_uses(&source(files), &graph(files))
}

#[test]
fn a_circle_is_told_with_names_and_lines() {
    let graph = graph(&[
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B;\npub struct A;"),
        ("b.rs", "\nuse crate::c::{C, make};\npub struct B;"),
        ("c.rs", "pub struct C;\npub fn make(_: crate::a::A) {}"),
        ("d.rs", "use crate::a::A;"),
    ]);
    let circles = graph.circles();
    assert_eq!(circles.len(), 1);
    let text = graph.tell(&circles[0]);
    for expected in [
        "3 files",
        "src/a.rs uses `B` (line 1) of src/b.rs",
        "src/b.rs uses `C` (line 2), `make` (line 2) of src/c.rs",
        "src/c.rs uses `A` (line 2) of src/a.rs",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
    assert!(!text.contains("src/d.rs"), "{text}");
}

#[test]
fn the_shortest_way_round_is_told() {
    let graph = graph(&[
        ("lib.rs", ""),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::{a::A, d::D};"),
        ("d.rs", "use crate::c::C;"),
    ]);
    let circles = graph.circles();
    assert_eq!(circles[0].len(), 4);
    let way = graph.shortest_way_round(&circles[0]);
    let mut way: Vec<&str> = way.iter().map(|file| &*graph.files[*file].path).collect();
    way.sort_unstable();
    assert_eq!(way, ["src/c.rs", "src/d.rs"]);
}

#[test]
fn two_circles_are_two() {
    let files = [
        ("lib.rs", ""),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::a::A; use crate::c::C;"),
        ("c.rs", "use crate::d::D;"),
        ("d.rs", "use crate::c::C;"),
    ];
    assert_eq!(graph(&files).circles().len(), 2);
}

#[test]
fn a_reexport_is_followed_and_is_no_use() {
    let found = edges(&[
        ("lib.rs", "pub use a::{A, Renamed};"),
        (
            "a/mod.rs",
            "mod inner; mod other; pub use inner::A; pub(crate) use self::other::Other as Renamed;",
        ),
        ("a/inner.rs", "pub struct A;"),
        ("a/other.rs", "pub struct Other;"),
        ("b.rs", "use crate::A; use crate::a::Renamed;"),
        ("c.rs", "fn f() { crate::a::A::make(); }"),
    ]);
    assert_eq!(
        found,
        ["b -> a/inner: A", "b -> a/other: Other", "c -> a/inner: A"]
    );
}

#[test]
fn what_a_file_reexports_and_takes_itself_is_used() {
    let found = edges(&[
        ("lib.rs", ""),
        (
            "a/mod.rs",
            "mod inner; pub use inner::{Limits, make, unused};
            fn f() -> Limits { let unused = make(); unused }",
        ),
        (
            "a/inner.rs",
            "pub struct Limits; pub fn make() -> Limits { Limits } pub fn unused() {}",
        ),
    ]);
    assert_eq!(found, ["a -> a/inner: Limits make"]);
}

#[test]
fn a_private_import_that_a_child_takes_is_a_use_of_the_parent() {
    let found = edges(&[
        ("lib.rs", ""),
        (
            "a/mod.rs",
            "mod inner; use crate::b::B; pub(self) use crate::b::C;",
        ),
        ("a/inner.rs", "use super::B; fn f(_: super::C) {}"),
        ("b.rs", "pub struct B; pub struct C;"),
    ]);
    assert_eq!(found, ["a -> b: B C", "a/inner -> a: B C"]);
}

#[test]
fn globs_are_followed() {
    let found = edges(&[
        ("lib.rs", ""),
        ("a/mod.rs", "mod inner; mod user; pub use inner::*;"),
        ("a/inner.rs", "pub struct A;"),
        ("a/user.rs", "use super::*; fn f(_: A) {}"),
        ("b.rs", "use crate::a::A;"),
    ]);
    assert_eq!(
        found,
        ["a/user -> a/inner: A", "a/user -> a: a", "b -> a/inner: A"]
    );
}

#[test]
fn a_use_in_a_function_is_found() {
    let files = [
        ("lib.rs", ""),
        (
            "a.rs",
            "fn f() {
                if true { use crate::b::{self, B}; b::g(); }
                let x = crate::c::C;
                super::d::h(x);
            }",
        ),
        ("b.rs", "pub use crate::e::g; pub struct B;"),
        ("c.rs", "pub struct C;"),
        ("d.rs", "pub fn h() {}"),
        ("e.rs", "pub fn g() {}"),
    ];
    let found = edges(&files);
    assert_eq!(
        found,
        ["a -> b: B b", "a -> c: C", "a -> d: h", "a -> e: g"]
    );
}

#[test]
fn a_use_in_a_macro_is_found() {
    let text = r#"
        mod child;
        macro_rules! make { ($x:expr) => { $crate::b::B::new($x) } }
        fn f() {
            println!("{}", crate::c::C);
            select! { x = child::wait() => { use crate::d::{D, e::E}; x.other() } }
        }
    "#;
    let found = edges(&[
        ("lib.rs", ""),
        ("a.rs", text),
        ("a/child.rs", "pub fn wait() {}"),
        ("b.rs", "pub struct B;"),
        ("c.rs", "pub const C: u8 = 0;"),
        ("d.rs", "mod e; pub struct D;"),
        ("d/e.rs", "pub struct E;"),
    ]);
    assert_eq!(
        found,
        [
            "a -> a/child: wait",
            "a -> b: B",
            "a -> c: C",
            "a -> d/e: E",
            "a -> d: D"
        ]
    );
}

#[test]
fn patterns_types_and_bounds_are_uses() {
    let text = "
        impl<T: super::b::Bound> Trait for Own<T> where T: crate::c::Where {
            fn f(self: crate::d::Holder<Self>) -> Vec<crate::e::Item> {
                match self { crate::f::MAX => {} }
            }
        }
        pub(in crate::a) fn g() {}";
    let found = edges(&[
        ("lib.rs", ""),
        ("a/mod.rs", ""),
        ("a/x.rs", text),
        ("a/b.rs", "pub trait Bound {}"),
        ("c.rs", "pub trait Where {}"),
        ("d.rs", "pub struct Holder;"),
        ("e.rs", "pub struct Item;"),
        ("f.rs", "pub const MAX: u8 = 0;"),
    ]);
    let expected = [
        "a/b: Bound",
        "a: a",
        "c: Where",
        "d: Holder",
        "e: Item",
        "f: MAX",
    ];
    assert_eq!(found, expected.map(|to| format!("a/x -> {to}")));
}

#[test]
fn tests_other_crates_and_declarations_are_no_uses() {
    let found = edges(&[
        ("lib.rs", "#[cfg(test)] mod rig; mod a; mod b;"),
        (
            "a.rs",
            "#[cfg(test)] mod tests { use crate::b::B; }
            #[cfg(all(test, unix))] mod more;
            #[cfg(any(fuzzing, test))] mod third;
            mod child;
            use ::b::B;
            use std::fmt;
            fn f(_: fmt::Error) { b::g(); println!(\"{}\", ::b::B) }",
        ),
        ("a/more.rs", "use crate::b::B;"),
        ("a/third.rs", "use crate::b::B;"),
        ("a/tests/mod.rs", "use crate::b::B;"),
        ("a/child.rs", "#[cfg(test)] fn f(_: crate::rig::Rig) {}"),
        ("b.rs", "pub(super) struct B; pub(crate) fn g() {}"),
        ("rig.rs", "use crate::b::B;"),
        ("fuzzing.rs", "use crate::b::B;"),
        ("conformance/mod.rs", "use crate::b::B;"),
    ]);
    assert_eq!(found, [""; 0]);
}

#[test]
fn floors_are_read_from_the_block() {
    let text = "# Floors\n```\nno floors\n```\n```floors\n# the top\na b # both\n\nc/d\n```\nafter";
    let floors = Floors::parse(text).unwrap();
    assert_eq!(
        format!("{floors:?}"),
        r#"Floors({["a"]: 0, ["b"]: 0, ["c", "d"]: 1})"#
    );
    let fault = |text| Floors::parse(text).unwrap_err();
    assert!(fault("```\na\n```").contains("no block"));
    assert!(fault("```floors\na\n```\n```floors\nb\n```").contains("more than one"));
    assert!(fault("```floors\na\nb a\n```").contains("twice"));
}

#[test]
fn a_use_of_a_lower_floor_and_of_the_own_module_is_none_of_the_faults() {
    let files = [
        ("lib.rs", ""),
        ("a/mod.rs", "use crate::b::B; use inner::Inner; mod inner;"),
        ("a/inner.rs", "use crate::c::deep::Deep;"),
        ("b.rs", ""),
        ("c/mod.rs", ""),
        ("c/deep.rs", ""),
    ];
    assert_eq!(faults_of_uses("a\nb\nc", &files), [""; 0]);
}

#[test]
fn a_use_that_goes_up_across_or_to_the_root_is_a_fault() {
    let files = [
        ("lib.rs", "pub fn open() {}"),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "use crate::a::A;"),
        ("c/mod.rs", "\nuse crate::b::B; fn f() { crate::open(); }"),
        ("c/d.rs", "use super::C;"),
    ];
    let found = faults_of_uses("a b\nc\nc/d", &files);
    let expected = [
        "src/a.rs uses `B` (line 1) of src/b.rs: `b` stands beside `a`",
        "src/b.rs uses `A` (line 1) of src/a.rs: `a` stands beside `b`",
        "src/c/mod.rs uses `open` (line 2) of src/lib.rs: lib.rs stands above all floors",
        "src/c/mod.rs uses `B` (line 2) of src/b.rs: `b` stands above `c`",
        "src/c/d.rs uses `C` (line 1) of src/c/mod.rs: `c` stands above `c/d`",
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_file_without_a_floor_and_a_path_without_a_file_are_faults() {
    let files = [("lib.rs", ""), ("a.rs", ""), ("a/x.rs", ""), ("b.rs", "")];
    let found = faults_of_uses("a\na/y", &files);
    let expected = [
        "The floors have `a/y`, which is no file of src",
        "src/b.rs stands on no floor",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_root_lists_the_top_floor_first() {
    let order = |lib| {
        floors("a b\nc\nd").faults_of_order(&source(&[
            ("lib.rs", lib),
            ("a.rs", ""),
            ("b.rs", ""),
            ("c.rs", ""),
            ("d.rs", ""),
        ]))
    };
    assert_eq!(
        order("mod b;\nmod a;\n#[cfg(test)] mod rig;\nmod c;\nmod d;"),
        [""; 0]
    );
    let found = order("mod b;\nmod c;\nmod a;\nmod d;");
    assert_eq!(found.len(), 2);
    assert!(
        found[0].contains("`mod c;` (line 2) before `mod a;` (line 3)"),
        "{found:?}"
    );
}

#[test]
fn what_is_too_long_is_found() {
    let body = "\n    g();".repeat(69);
    let long = format!("impl A {{\n    pub async fn f()\n    {{{body}\n    }}\n}}");
    let in_a_macro = format!("tests! {{ fn h(x: [u8; 3]) -> u8 {{{body}\n\n}} fn i(); }}");
    let fits = format!("fn f() {{{}\n}}", "\n    g();".repeat(68));
    let files = [
        ("lib.rs", ""),
        ("a.rs", &*long),
        ("tests/b.rs", &*in_a_macro),
        ("c.rs", &*fits),
        ("d.rs", &*"\n".repeat(450)),
        ("e.rs", &*"\n".repeat(451)),
    ];
    let expected = [
        "src/a.rs, line 2: fn f has 72 lines, and may have 70",
        "src/tests/b.rs, line 1: fn h has 72 lines, and may have 70",
        "src/e.rs has 451 lines, and may have 450",
    ];
    assert_eq!(sizes::faults(&source(&files)), expected);
}

#[test]
fn figures_leave_tests_out() {
    let text = "
        // why
        fn f() { debug_assert!(x.unwrap()); debug_assert_eq!(y.expect(\"some\"), 1); }

        #[cfg(test)]
        mod tests {
            // why
            fn g() { x.unwrap() }
        }";
    let source = source(&[("lib.rs", ""), ("a.rs", text)]);
    let table = figures::table(&source, &Graph::of(&source));
    for line in [
        "files: 2",
        "functions: 1",
        "debug_assert: 2",
        "unwrap: 1",
        "expect: 1",
        "comment lines per code line: 1.00 (1 / 1)",
    ] {
        assert!(table.lines().any(|found| found == line), "{line}\n{table}");
    }
}

#[test]
fn the_graph_of_the_top_is_drawn() {
    let graph = graph(&[
        ("lib.rs", ""),
        ("a.rs", "use crate::b::B;"),
        ("a/x.rs", "use crate::b::B; use super::A;"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::b::B;"),
    ]);
    let text = figures::dot(&graph);
    for line in [
        "    a;",
        "    a -> b [label=2];",
        "    b -> c [label=1, color=red];",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}
