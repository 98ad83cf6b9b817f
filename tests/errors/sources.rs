//! Whether the listing has all texts: those that stand in the sources are looked for in it.

use std::path::Path;

use crate::listing::all;

/// Texts that no test can provoke from outside, and why; the tests of the crate itself make some.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "is over 4 GiB: put it into the body",
        "takes that much memory",
    ),
    (
        "an append that this one does not follow",
        "a defect of a driver",
    ),
    ("the task that appends panicked", "a defect"),
    ("reading a redb storage panicked", "a defect"),
    ("a call of the storage panicked", "a defect"),
    ("was polled after its end", "a defect"),
    ("a delivery of something that is no consumer", "a defect"),
    (
        "an answer of the server is not understood",
        "a defect, or a schema of somebody else",
    ),
    (
        "which this flowstream does not know: update flowstream, or restore",
        "a schema of somebody else",
    ),
    (
        "an answer of {} is not understood",
        "a defect, or a schema of somebody else",
    ),
    (
        "less is done there than this consumer had committed",
        "tests/regressions",
    ),
    (
        "because the storage went back to an earlier state",
        "tests/regressions",
    ),
    ("there is no {group} any more", "tests/regressions"),
    (
        "did not answer in time: it is overloaded",
        "tests/postgres_outages",
    ),
    (
        "cannot be connected to as the URL says",
        "certificates that are not there: tests/tls",
    ),
    ("check role, password and pg_hba.conf", "what a pooler says"),
    (
        "there is no partition {index} of a stream",
        "a server that breaks off in between",
    ),
    (
        "the connection broke while a transaction committed",
        "tests/postgres_cuts",
    ),
    (
        "because it collided with another one",
        "tests/postgres_commit_in",
    ),
    (
        "another one has done a delivery that it commits",
        "tests/postgres_commit_in",
    ),
    (
        "another transaction has done the delivery",
        "tests/postgres_commit_in",
    ),
    (
        "the transaction collided with another one",
        "tests/postgres_commit_in",
    ),
    ("invalid international domain name", "a part of another"),
    (
        "the write broke off with the runtime",
        "tests/redb_runtimes",
    ),
    (
        "that the storage was called on has ended",
        "tests/redb_runtimes",
    ),
    (
        "the table of recent appends",
        "a part of another: damage in src/storage/redb/tests",
    ),
    (
        "the state of group {name}",
        "a part of another: damage in src/storage/redb/tests",
    ),
    (
        "seems to be damaged, reading or writing it panicked",
        "src/storage/redb/tests",
    ),
    ("is damaged, it ends too early", "src/storage/redb/tests"),
    ("cannot be read or written now", "tests/redb_places"),
    ("is opened anew after an error", "tests/redb_places"),
    ("has the redb file format", "a file of another redb"),
    ("is too large for {path}", "redb takes 3 GiB"),
    ("is over the limit of {MAX_BYTES}", "takes that much memory"),
    ("acked FROM {schema}.commit", "SQL"),
    ("SET LOCAL statement_timeout", "SQL"),
    (
        "the schema of the storage was changed meanwhile",
        "tests/postgres_forgets",
    ),
    ("what gives them panicked", "a part of another"),
    (
        "has something of another application in it",
        "tests/postgres_settings",
    ),
    (
        "its version is another application's",
        "tests/postgres_settings",
    ),
    ("is not the path of a file", "tests/redb_urls"),
    (
        "is a device, a pipe or a socket: give the path of a file",
        "tests/redb_urls",
    ),
    ("is a symbolic link to", "src/storage/redb/tests"),
    (
        "the file at {path} is another one",
        "src/storage/redb/tests",
    ),
    (
        "has to be opened anew after an error, and is not there",
        "src/storage/redb/tests",
    ),
    ("is not there any more: {error}", "tests/redb_places"),
    ("cannot be opened: {error}; the user", "tests/redb_places"),
    (
        "is on a file system that nothing can be written to",
        "tests/redb_places",
    ),
    ("there is no room for the file", "tests/redb_places"),
    ("was deleted while it was open", "src/storage/redb/tests"),
    (
        "takes no settings from connections",
        "tests/postgres_settings",
    ),
    (
        "refuses a setting that a connection is to have",
        "tests/postgres_settings",
    ),
    ("cannot be connected to: {message}", "what a pooler says"),
    (
        "ended a session whose transaction took too long",
        "tests/postgres_forgets",
    ),
    ("the encoding of the database", "tests/postgres_settings"),
    (
        "is a standby, which takes no writes",
        "tests/postgres_forgets",
    ),
    (
        "the newest batch of a log that was trimmed",
        "a part of another: damage in src/storage/redb/tests",
    ),
    (
        "the entry of stream {name}",
        "a part of another: damage in src/storage/redb/tests",
    ),
];

/// Where a text is no error's.
const OTHERS: [&str; 12] = [
    "tracing::trace!",
    "tracing::debug!",
    "tracing::info!",
    "tracing::warn!",
    "tracing::error!",
    ".expect",
    "panic!",
    "assert!",
    "assert_eq!",
    "assert_ne!",
    "matches!",
    "#",
];

#[test]
fn every_text_of_the_sources_is_listed() {
    let is_rewritten = std::env::var_os("FLOWSTREAM_REWRITE").is_some();
    if cfg!(not(all(feature = "postgres", feature = "redb"))) || is_rewritten {
        return;
    }
    let listed = all();
    let mut missing = Vec::new();
    let mut seen = 0;
    for path in files(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path()) {
        let source = std::fs::read_to_string(&path).unwrap();
        for text in texts(&source) {
            let Some(piece) = fixed_piece(&text) else {
                continue;
            };
            seen += 1;
            let is_elsewhere = ELSEWHERE.iter().any(|(part, _)| text.contains(part));
            if !listed.contains(piece) && !is_elsewhere {
                missing.push(format!("{}: {text}", path.display()));
            }
        }
    }
    assert!(seen > 100, "texts are found: {seen}");
    assert!(missing.is_empty(), "not listed:\n{}", missing.join("\n"));
    let idle = ELSEWHERE.iter().find(|(part, _)| listed.contains(part));
    assert_eq!(idle, None, "it is listed");
}

#[test]
fn texts_are_found_in_sources() {
    let source = r#"
        /// Not "in a comment of three words".
        #[must_use = "not in an attribute either"]
        fn f(c: char) -> Error {
            tracing::warn!(%c, "nor in a trace (at all)");
            let q = '"';
            Error::invalid(format!(
                "there is no {c}: it \"goes\" on \
                 in the next line", 1
            ))
        }
        #[cfg(test)]
        mod tests { const TEXT: &str = "nor in the tests below"; }"#;
    let expected = "there is no {c}: it \"goes\" on in the next line";
    assert_eq!(texts(source), [expected]);
    assert_eq!(
        fixed_piece(expected),
        Some(": it \"goes\" on in the next line")
    );
    assert_eq!(fixed_piece("{a} and {b}"), None);
}

/// The sources, but for what is not part of the library as users have it.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let entries = std::fs::read_dir(directory).unwrap();
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_other = ["conformance", "fuzzing", "tests", "faults"].contains(&name);
        if is_other {
            continue;
        }
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            files.push(path);
        }
    }
    files
}

/// What of a text stands in it whatever is put into it; `None` if that is too little to look for.
fn fixed_piece(text: &str) -> Option<&str> {
    const SQL: [&str; 6] = ["SELECT", "SET ", "LISTEN", "    IF", "    END", "/*"];
    if SQL.iter().any(|verb| text.starts_with(verb)) {
        return None;
    }
    // What stands between two brackets is put in; a bracket that stands for itself is doubled.
    let pieces = text.split("{{").flat_map(|text| text.split("}}"));
    let pieces = pieces.flat_map(|text| text.split(['{', '}']).step_by(2));
    let longest = pieces.max_by_key(|piece| piece.len())?;
    let words = longest.split_whitespace().count();
    (words >= 4).then_some(longest)
}

/// The strings of a source that may be texts of errors.
fn texts(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let are_tests = |pair: &[&str]| {
        pair[0] == "#[cfg(test)]"
            && (pair[1].starts_with("mod tests") || pair[1].starts_with("#[path"))
    };
    let end = lines.windows(2).position(are_tests).unwrap_or(lines.len());
    let code = lines[..end].iter().filter(|line| !line.starts_with("//"));
    let code: String = code.map(|line| format!("{line}\n")).collect();
    let mut texts = Vec::new();
    // What stands before each bracket that is open.
    let mut open: Vec<String> = Vec::new();
    let mut before = String::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let text = string(&mut chars);
                let is_other = open.iter().any(|of| OTHERS.iter().any(|o| of.ends_with(o)));
                if !is_other {
                    texts.push(text);
                }
                before.clear();
            }
            '\'' => {
                // A character, or a lifetime.
                let mut ahead = chars.clone();
                let first = ahead.next();
                let is_char = first == Some('\\') || ahead.next() == Some('\'');
                if is_char {
                    if chars.next() == Some('\\') {
                        chars.next();
                    }
                    chars.find(|c| *c == '\'');
                }
            }
            '(' | '[' | '{' => open.push(std::mem::take(&mut before)),
            ')' | ']' | '}' => {
                open.pop();
                before.clear();
            }
            c if c.is_whitespace() || c == ';' || c == ',' => before.clear(),
            c => before.push(c),
        }
    }
    texts
}

/// The rest of a string, as it is when the program runs.
fn string(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next() {
                Some('\n') => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                Some('n') => text.push('\n'),
                Some(c) => text.push(c),
                None => break,
            },
            c => text.push(c),
        }
    }
    text
}
