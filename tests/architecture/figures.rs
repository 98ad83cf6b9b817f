//! Figures for a report. None of them is held to anything here.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::RangeInclusive;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ExprMethodCall, ImplItemFn, ItemFn, ItemMod, Macro};

use super::graph::Graph;
use super::sizes::{With, functions};
use super::source::{File, Source, only_in_tests};

/// Without what only tests see, but for the lengths of files, which are those of the limit.
pub(crate) fn table(source: &Source, graph: &Graph) -> String {
    let files: Vec<&File> = source.library().collect();
    let mut of_files = Vec::new();
    let mut of_functions = Vec::new();
    let mut count = Count::default();
    let mut lines = Lines::default();
    for file in &files {
        of_files.push((file.text.lines().count(), file.path.clone()));
        for function in functions(file, With::NoTests) {
            let place = format!("{} in {}", function.name, file.path);
            of_functions.push((function.lines, place));
        }
        count.visit_file(&file.syntax);
        lines.add(file);
    }
    let circles = graph.circles();
    let in_circles: usize = circles.iter().map(Vec::len).sum();
    let mut table = String::new();
    let _ = writeln!(table, "files: {}", files.len());
    let _ = writeln!(table, "files in circles: {in_circles}");
    let _ = writeln!(table, "lines of a file: {}", median_and_most(of_files));
    let _ = writeln!(table, "functions: {}", of_functions.len());
    let _ = writeln!(
        table,
        "lines of a function: {}",
        median_and_most(of_functions)
    );
    let _ = writeln!(table, "debug_assert: {}", count.debug_asserts);
    let _ = writeln!(table, "unwrap: {}", count.unwraps);
    let _ = writeln!(table, "expect: {}", count.expects);
    let Lines { comment, code } = lines;
    let share = comment as f64 / code as f64;
    let _ = writeln!(
        table,
        "comment lines per code line: {share:.2} ({comment} / {code})"
    );
    table
}

/// The modules that `lib.rs` lists, as Graphviz reads it; an edge has the number of files that make it, and is
/// red within a circle.
pub(crate) fn dot(graph: &Graph) -> String {
    let mut edges: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut text = String::from("digraph src {\n    node [shape=box];\n");
    for file in &graph.files {
        let Some(from) = file.module.first() else {
            continue;
        };
        let targets = file.uses.keys().map(|to| &graph.files[*to].module);
        let mut targets: Vec<&str> = targets
            .filter_map(|to| Some(to.first()?.as_str()))
            .collect();
        targets.sort_unstable();
        targets.dedup();
        for to in targets {
            if to != from {
                *edges.entry((from, to)).or_default() += 1;
            }
        }
        if file.module.len() == 1 && !file.is_for_tests {
            let _ = writeln!(text, "    {from};");
        }
    }
    for ((from, to), files) in &edges {
        let color = if reaches(&edges, to, from) {
            ", color=red"
        } else {
            ""
        };
        let _ = writeln!(text, "    {from} -> {to} [label={files}{color}];");
    }
    text.push_str("}\n");
    text
}

fn reaches(edges: &BTreeMap<(&str, &str), usize>, from: &str, to: &str) -> bool {
    let mut reached = vec![from];
    let mut at = 0;
    while let Some(here) = reached.get(at).copied() {
        for (source, target) in edges.keys() {
            if *source == here && !reached.contains(target) {
                reached.push(target);
            }
        }
        at += 1;
    }
    reached.contains(&to)
}

fn median_and_most(mut of: Vec<(usize, String)>) -> String {
    of.sort();
    match of.last() {
        Some((most, place)) => format!("median {}, most {most} ({place})", of[of.len() / 2].0),
        None => "none".to_owned(),
    }
}

#[derive(Default)]
struct Count {
    debug_asserts: usize,
    unwraps: usize,
    expects: usize,
}

impl<'ast> Visit<'ast> for Count {
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_item_mod(&mut self, inner: &'ast ItemMod) {
        if !only_in_tests(&inner.attrs) {
            visit::visit_item_mod(self, inner);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if !only_in_tests(&function.attrs) {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        if !only_in_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        self.method(&call.method.to_string());
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        if let Some(last) = called.path.segments.last() {
            self.macro_called(&last.ident.to_string());
        }
        visit::visit_macro(self, called);
    }

    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.scan(tokens);
    }
}

impl Count {
    fn scan(&mut self, tokens: &TokenStream) {
        let tokens: Vec<TokenTree> = tokens.clone().into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            let is_mark = |at: usize, sign: char| match tokens.get(at) {
                Some(TokenTree::Punct(mark)) => mark.as_char() == sign,
                _ => false,
            };
            match token {
                TokenTree::Group(group) => self.scan(&group.stream()),
                TokenTree::Ident(name) if is_mark(at + 1, '!') => {
                    self.macro_called(&name.to_string())
                }
                TokenTree::Ident(name) if at > 0 && is_mark(at - 1, '.') => {
                    self.method(&name.to_string())
                }
                _ => {}
            }
        }
    }

    fn method(&mut self, name: &str) {
        self.unwraps += usize::from(name == "unwrap");
        self.expects += usize::from(name == "expect");
    }

    fn macro_called(&mut self, name: &str) {
        self.debug_asserts += usize::from(name.starts_with("debug_assert"));
    }
}

#[derive(Default)]
struct Lines {
    comment: usize,
    code: usize,
}

impl Lines {
    fn add(&mut self, file: &File) {
        let mut tests = TestLines(Vec::new());
        tests.visit_file(&file.syntax);
        for (number, line) in (1..).zip(file.text.lines()) {
            let line = line.trim();
            if line.is_empty() || tests.0.iter().any(|lines| lines.contains(&number)) {
                continue;
            }
            if line.starts_with("//") {
                self.comment += 1;
            } else {
                self.code += 1;
            }
        }
    }
}

struct TestLines(Vec<RangeInclusive<usize>>);

impl<'ast> Visit<'ast> for TestLines {
    fn visit_item_mod(&mut self, inner: &'ast ItemMod) {
        let (Some(first), Some((braces, _))) = (inner.attrs.first(), &inner.content) else {
            return;
        };
        if only_in_tests(&inner.attrs) {
            let start = first.pound_token.span.start().line;
            self.0.push(start..=braces.span.close().end().line);
        }
    }
}
