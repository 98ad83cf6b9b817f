//! The floors that the drawing has, and what breaks them.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::Ident;
use syn::Item;

use super::graph::Graph;
use super::source::Source;

const INFO: &str = "floors";

/// The paths of modules, and the floor of each: 0 is the top.
#[derive(Debug)]
pub(crate) struct Floors(BTreeMap<Vec<String>, usize>);

impl Floors {
    /// Reads the only block of `markdown` with the info string `floors`: a floor a line, from top to bottom,
    /// the paths on it apart by spaces; a comment after `#`.
    ///
    /// # Errors
    ///
    /// There is no such block, or more than one, or it names a path twice.
    pub(crate) fn parse(markdown: &str) -> Result<Self, String> {
        let mut floors = BTreeMap::new();
        let lines = block(markdown)?;
        let lines = lines
            .iter()
            .map(|line| line.split('#').next().unwrap_or(line));
        let lines = lines.filter(|line| !line.trim().is_empty());
        for (floor, line) in lines.enumerate() {
            for path in line.split_whitespace() {
                let module = path.split('/').map(str::to_owned).collect();
                if floors.insert(module, floor).is_some() {
                    return Err(format!("`{path}` is in its block of floors twice"));
                }
            }
        }
        Ok(Self(floors))
    }

    /// Each use that goes up or across, each file that no floor has, each path without a file.
    pub(crate) fn faults_of_uses(&self, source: &Source, graph: &Graph) -> Vec<String> {
        let mut faults = self.faults_of_paths(source);
        for (from, file) in graph.files.iter().enumerate() {
            for to in file.uses.keys() {
                if let Some(why) = self.forbids(&file.module, &graph.files[*to].module) {
                    faults.push(format!("{}: {why}", graph.tell_edge(from, *to)));
                }
            }
        }
        faults
    }

    /// Modules that the root lists above one of a higher floor.
    pub(crate) fn faults_of_order(&self, source: &Source) -> Vec<String> {
        let root = source.library().find(|file| file.is_root());
        let Some(root) = root else {
            return vec!["src has no lib.rs".to_owned()];
        };
        let modules = root.syntax.items.iter().filter_map(|item| match item {
            Item::Mod(module) => Some(&module.ident),
            _ => None,
        });
        let listed: Vec<(&Ident, usize)> = modules
            .filter_map(|module| Some((module, *self.0.get(&[module.to_string()][..])?)))
            .collect();
        let pairs = listed.windows(2).filter(|pair| pair[0].1 > pair[1].1);
        let mut faults: Vec<String> = pairs
            .map(|pair| {
                let (lower, upper) = (pair[0].0, pair[1].0);
                let line = |module: &Ident| module.span().start().line;
                let (lower_line, upper_line) = (line(lower), line(upper));
                format!(
                    "{} lists `mod {lower};` (line {lower_line}) before `mod {upper};` \
                     (line {upper_line}), whose floor is higher",
                    root.path
                )
            })
            .collect();
        if !faults.is_empty() {
            faults.push(
                "It goes from the top floor down, with a blank line between floors, across which \
                 cargo fmt does not sort."
                    .to_owned(),
            );
        }
        faults
    }

    fn faults_of_paths(&self, source: &Source) -> Vec<String> {
        let mut faults = Vec::new();
        let of_library: BTreeSet<&Vec<String>> =
            source.library().map(|file| &file.module).collect();
        for path in self.0.keys().filter(|path| !of_library.contains(path)) {
            faults.push(format!(
                "The floors have `{}`, which is no file of src",
                path.join("/")
            ));
        }
        for file in source.library().filter(|file| !file.is_root()) {
            if self.place(&file.module).is_none() {
                faults.push(format!("{} stands on no floor", file.path));
            }
        }
        faults
    }

    fn forbids(&self, from: &[String], to: &[String]) -> Option<String> {
        if to.is_empty() {
            return Some("lib.rs stands above all floors".to_owned());
        }
        let ((from, from_floor), (to, to_floor)) = (self.place(from)?, self.place(to)?);
        if from == to || from_floor < to_floor {
            return None;
        }
        let how = if from_floor == to_floor {
            "beside"
        } else {
            "above"
        };
        Some(format!(
            "`{}` stands {how} `{}`",
            to.join("/"),
            from.join("/")
        ))
    }

    /// The longest path that `module` is at or below, with its floor.
    fn place(&self, module: &[String]) -> Option<(&[String], usize)> {
        let mut lengths = (1..=module.len()).rev();
        lengths.find_map(|length| {
            let (path, floor) = self.0.get_key_value(&module[..length])?;
            Some((&path[..], *floor))
        })
    }
}

fn block(markdown: &str) -> Result<Vec<&str>, String> {
    let mut found = None;
    let mut lines = markdown.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let inside = lines
            .by_ref()
            .take_while(|line| !line.starts_with("```"))
            .collect();
        if info.trim() == INFO && found.replace(inside).is_some() {
            return Err(format!(
                "there is more than one block of code marked `{INFO}`"
            ));
        }
    }
    found.ok_or_else(|| format!("no block of code is marked `{INFO}`"))
}
