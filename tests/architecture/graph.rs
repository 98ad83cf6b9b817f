//! Which file uses which, and the circles in that.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

use super::names::Names;
use super::source::{File, Source};
use super::uses::uses;

/// Files go by their number in the source; those for tests have no edges.
pub(crate) struct Graph {
    pub(crate) files: Vec<Node>,
}

pub(crate) struct Node {
    pub(crate) path: String,
    pub(crate) module: Vec<String>,
    pub(crate) is_for_tests: bool,
    /// By the file that is used: each name of it, and the first line that takes it.
    pub(crate) uses: BTreeMap<usize, BTreeMap<String, usize>>,
}

impl Graph {
    /// `lib.rs` uses everything and stands outside; that others use it is kept, for the floors to forbid.
    pub(crate) fn of(source: &Source) -> Self {
        let names = Names::of(source);
        let node = |(number, file): (usize, &File)| {
            let mut node = Node {
                path: file.path.clone(),
                module: file.module.clone(),
                is_for_tests: file.is_for_tests,
                uses: BTreeMap::new(),
            };
            if file.is_for_tests || file.is_root() {
                return node;
            }
            for found in uses(file, &names) {
                let place = found.place;
                if place.file != number && !source.files[place.file].is_for_tests {
                    let edge = node.uses.entry(place.file).or_default();
                    let line = edge.entry(place.name).or_insert(found.line);
                    *line = found.line.min(*line);
                }
            }
            node
        };
        Self {
            files: source.files.iter().enumerate().map(node).collect(),
        }
    }

    /// The sets of files that reach each other, the largest first.
    pub(crate) fn circles(&self) -> Vec<Vec<usize>> {
        let reached: Vec<Vec<bool>> = (0..self.files.len()).map(|from| self.reach(from)).collect();
        let mut circles: Vec<Vec<usize>> = Vec::new();
        for (file, from) in reached.iter().enumerate() {
            let is_first = !circles.iter().any(|circle| circle.contains(&file));
            if is_first && from[file] {
                let others = (0..from.len()).filter(|to| from[*to] && reached[*to][file]);
                circles.push(others.collect());
            }
        }
        circles.sort_by_key(|circle| usize::MAX - circle.len());
        circles
    }

    /// The files of a way round in `circle`, of which there is no shorter one.
    pub(crate) fn shortest_way_round(&self, circle: &[usize]) -> Vec<usize> {
        let ways = circle.iter().filter_map(|start| self.way_round(*start));
        ways.min_by_key(Vec::len).unwrap_or_default()
    }

    /// A circle for somebody who has never heard of it.
    pub(crate) fn tell(&self, circle: &[usize]) -> String {
        let mut text = format!(
            "{} files of src stand in a circle: what they use leads from each to all the others \
             and back, so none can be understood or changed alone.\n",
            circle.len()
        );
        for file in circle {
            let _ = writeln!(text, "    {}", self.files[*file].path);
        }
        let way = self.shortest_way_round(circle);
        let _ = writeln!(text, "A shortest way round:");
        for (position, from) in way.iter().enumerate() {
            let to = way[(position + 1) % way.len()];
            let _ = writeln!(text, "    {}", self.tell_edge(*from, to));
        }
        text.push_str(
            "Move what one of them uses into a file of its own below both, or hand it over as an \
             argument.\n",
        );
        text
    }

    /// Which names of `to` the file `from` uses, and where.
    pub(crate) fn tell_edge(&self, from: usize, to: usize) -> String {
        let mut names: Vec<(&String, &usize)> = self.files[from].uses[&to].iter().collect();
        names.sort_by_key(|(_, line)| **line);
        let names: Vec<String> = names
            .iter()
            .map(|(name, line)| format!("`{name}` (line {line})"))
            .collect();
        let (from, to) = (&self.files[from].path, &self.files[to].path);
        format!("{from} uses {} of {to}", names.join(", "))
    }

    fn next(&self, file: usize) -> impl Iterator<Item = usize> {
        let next = self.files[file].uses.keys().copied();
        next.filter(|to| !self.files[*to].module.is_empty())
    }

    /// What can be reached from a file by one step or more.
    fn reach(&self, from: usize) -> Vec<bool> {
        let mut reached = vec![false; self.files.len()];
        let mut open = vec![from];
        while let Some(file) = open.pop() {
            for to in self.next(file) {
                if !reached[to] {
                    reached[to] = true;
                    open.push(to);
                }
            }
        }
        reached
    }

    fn way_round(&self, start: usize) -> Option<Vec<usize>> {
        let mut came_from = vec![None; self.files.len()];
        let mut open = VecDeque::from([start]);
        while let Some(file) = open.pop_front() {
            for to in self.next(file) {
                if to == start {
                    let mut way = vec![file];
                    while let Some(before) = came_from[way[way.len() - 1]] {
                        way.push(before);
                    }
                    way.reverse();
                    return Some(way);
                }
                if came_from[to].is_none() {
                    came_from[to] = Some(file);
                    open.push_back(to);
                }
            }
        }
        None
    }
}
