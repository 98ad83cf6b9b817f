//! The texts as they stand in `texts.txt`, a section for each kind of place where they come from.

use std::error::Error as _;
use std::fmt::{Debug, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use flowstream::Error;

/// What no text and no `Debug` may have in it. Tests plant these as passwords, bodies, keys and values of
/// headers.
pub(crate) const SECRETS: [&str; 5] = [
    "hunter2",
    "secret-body",
    "secret-key",
    "secret-value",
    "secret_role",
];

/// What one section has, in order.
pub(crate) struct Listing {
    section: &'static str,
    text: String,
    /// What differs from run to run, and what stands for it.
    names: Vec<(String, &'static str)>,
}

impl Listing {
    pub(crate) fn new(section: &'static str) -> Self {
        Self {
            section,
            text: String::new(),
            names: Vec::new(),
        }
    }

    /// From now on this stands for that.
    pub(crate) fn name(&mut self, varies: impl Into<String>, fixed: &'static str) {
        self.names.push((varies.into(), fixed));
    }

    /// One more text, and what leads to it.
    pub(crate) fn add(&mut self, what: &str, error: &Error) {
        no_secret(&error.to_string());
        no_secret(&format!("{error:?} {error:#?}"));
        let mut entry = format!("{what}\n    {:?}: {error}\n", error.kind());
        let mut source = error.source();
        while let Some(error) = source {
            no_secret(&error.to_string());
            writeln!(entry, "    source: {error}").unwrap();
            source = error.source();
        }
        for (varies, fixed) in &self.names {
            entry = entry.replace(varies, fixed);
        }
        self.text += &without_ids(&entry);
    }

    /// One more text, of a call that has to fail.
    pub(crate) fn refused<T>(&mut self, what: &str, result: Result<T, impl Into<Error>>) {
        match result {
            Ok(_) => panic!("{}: {what}: it did not fail", self.section),
            Err(error) => self.add(what, &error.into()),
        }
    }

    /// Compares the section with what is checked in; writes it there if `FLOWSTREAM_REWRITE` is set.
    pub(crate) fn compare(self) {
        static FILE: Mutex<()> = Mutex::new(());
        // Of a test that failed.
        let _file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sections = read();
        let there = sections.iter_mut().find(|(name, _)| name == self.section);
        if std::env::var_os("FLOWSTREAM_REWRITE").is_some() {
            match there {
                Some((_, text)) => *text = self.text,
                None => sections.push((self.section.to_owned(), self.text)),
            }
            sections.sort();
            return write(&sections);
        }
        let there = there
            .map(|(_, text)| std::mem::take(text))
            .unwrap_or_default();
        let (ours, theirs): (Vec<&str>, Vec<&str>) =
            (self.text.lines().collect(), there.lines().collect());
        let same = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
        assert!(
            ours == theirs,
            "{}, from line {same} on:\n  now:       {:#?}\n  in the file: {:#?}\n\
             With FLOWSTREAM_REWRITE=1 the test writes tests/errors/texts.txt anew.",
            self.section,
            &ours[same..ours.len().min(same + 4)],
            &theirs[same..theirs.len().min(same + 4)],
        );
    }
}

/// Ids are random.
fn without_ids(text: &str) -> String {
    let is_id = |word: &str| word.len() >= 32 && word.chars().all(|c| c.is_ascii_hexdigit());
    let words = text
        .split(' ')
        .map(|word| if is_id(word) { "ID" } else { word });
    words.collect::<Vec<&str>>().join(" ")
}

/// All texts, as they are checked in.
pub(crate) fn all() -> String {
    read().into_iter().map(|(_, text)| text).collect()
}

pub(crate) fn no_secret(shown: &str) {
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// What it looks like has no secret in it.
pub(crate) fn shows_no_secret(it: &impl Debug) {
    no_secret(&format!("{it:?}"));
    no_secret(&format!("{it:#?}"));
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/errors/texts.txt")
}

fn read() -> Vec<(String, String)> {
    let file = std::fs::read_to_string(path()).unwrap_or_default();
    let sections = file.split("\n## ").skip(1);
    sections
        .filter_map(|section| section.split_once("\n\n"))
        .map(|(name, text)| (name.to_owned(), format!("{}\n", text.trim_end())))
        .collect()
}

fn write(sections: &[(String, String)]) {
    let mut file = String::from(
        "# What users meet: what was done, the kind of the error, its text, and its sources.\n\
         # FLOWSTREAM_REWRITE=1 cargo test --all-features --test errors writes it anew.\n",
    );
    for (name, text) in sections {
        write!(file, "\n## {name}\n\n{text}").unwrap();
    }
    std::fs::write(path(), file).expect("the texts are written");
}
