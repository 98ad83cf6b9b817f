//! The files of a crate, parsed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use syn::punctuated::Punctuated;
use syn::{Attribute, Item, Meta, Token};

/// Its spans are known only to the thread that parsed it.
pub(crate) struct Source {
    pub(crate) files: Vec<File>,
}

pub(crate) struct File {
    /// From the directory of the crate, with slashes.
    pub(crate) path: String,
    /// Empty for `lib.rs`.
    pub(crate) module: Vec<String>,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    /// Only tests and fuzzing are compiled with it, so the tower stands without it.
    pub(crate) is_for_tests: bool,
}

impl Source {
    /// Every file under `src` but the conformance suite, which is a program of its own on top of the crate.
    pub(crate) fn read(src: &Path) -> Self {
        let mut texts = Vec::new();
        collect(src, "src", &mut texts);
        texts.sort();
        Self::parse(texts)
    }

    /// # Panics
    ///
    /// If some text is no Rust.
    pub(crate) fn parse(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut files: Vec<File> = texts
            .into_iter()
            .map(|(path, text)| {
                let syntax = syn::parse_file(&text).unwrap_or_else(|error| {
                    let line = error.span().start().line;
                    panic!("{path}, line {line}, is not understood: {error}")
                });
                let module = module_of(&path);
                File {
                    path,
                    module,
                    text,
                    syntax,
                    is_for_tests: false,
                }
            })
            .filter(|file| file.module.first().is_none_or(|top| top != "conformance"))
            .collect();
        let mut left_out = BTreeSet::new();
        for file in &files {
            declared_for_tests(&file.module, &file.syntax.items, &mut left_out);
        }
        for file in &mut files {
            let module = &file.module;
            file.is_for_tests = module
                .iter()
                .any(|name| name == "tests" || name == "fuzzing")
                || (1..=module.len()).any(|length| left_out.contains(&module[..length]));
        }
        Self { files }
    }

    /// Those that the library consists of, `lib.rs` among them.
    pub(crate) fn library(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| !file.is_for_tests)
    }
}

impl File {
    pub(crate) fn is_root(&self) -> bool {
        self.module.is_empty()
    }
}

/// Whether only tests and fuzzing see what these attributes stand before.
pub(crate) fn only_in_tests(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("cfg"))
        .any(|attribute| {
            attribute
                .parse_args::<Meta>()
                .is_ok_and(|condition| needs_tests(&condition))
        })
}

fn needs_tests(condition: &Meta) -> bool {
    let inner = || {
        let list = condition.require_list()?;
        list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
    };
    let path = condition.path();
    if path.is_ident("all") {
        inner().is_ok_and(|all| all.iter().any(needs_tests))
    } else if path.is_ident("any") {
        inner().is_ok_and(|any| any.iter().all(needs_tests))
    } else {
        path.is_ident("test") || path.is_ident("fuzzing")
    }
}

fn declared_for_tests(module: &[String], items: &[Item], found: &mut BTreeSet<Vec<String>>) {
    for item in items {
        let Item::Mod(declared) = item else { continue };
        let mut path = module.to_vec();
        path.push(declared.ident.to_string());
        if only_in_tests(&declared.attrs) {
            found.insert(path);
        } else if let Some((_, items)) = &declared.content {
            declared_for_tests(&path, items, found);
        }
    }
}

fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let mut module: Vec<String> = path.split('/').map(str::to_owned).collect();
    if module == ["lib"] || module.last().is_some_and(|name| name == "mod") {
        module.pop();
    }
    module
}

fn collect(directory: &Path, called: &str, texts: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{called}: {error}"));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{called}: {error}"));
        let name = entry.file_name().into_string().expect("names are in UTF-8");
        let called = format!("{called}/{name}");
        if entry.path().is_dir() {
            collect(&entry.path(), &called, texts);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(entry.path());
            let text = text.unwrap_or_else(|error| panic!("{called}: {error}"));
            texts.push((called, text));
        }
    }
}
