//! Fuzz targets: every decoder and every parser of names. `fuzz/` runs them for hours with coverage,
//! the test below for a moment with what was found there and with random bytes.

use std::sync::OnceLock;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::name::Name;
use crate::options::Options;
use crate::record::Headers;
use crate::storage::{Records, RecordsBuilder};

/// Takes any bytes, and panics where something is wrong.
pub type Target = fn(&[u8]);

/// The targets, by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("records", records),
    ("headers", headers),
    ("names", names),
    ("urls", urls),
    #[cfg(feature = "postgres")]
    ("notifications", crate::storage::postgres::channel::fuzz),
    #[cfg(feature = "postgres")]
    ("columns", crate::storage::postgres::columns::fuzz),
    #[cfg(feature = "redb")]
    ("values", crate::storage::redb::fuzzing::values),
    #[cfg(feature = "redb")]
    ("file", crate::storage::redb::fuzzing::file),
];

/// Runs one target.
///
/// # Panics
///
/// If there is no such target, or if it found something.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, run) = found.expect("a target with this name");
    run(data);
}

/// A stored batch is the messages that it was made of, or an error.
fn records(data: &[u8]) {
    let Ok(records) = Records::decode(&Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut again = vec![0; records.encoded_len()];
    records.encode(&mut again);
    assert_eq!(again, data);
    let messages = (0..records.len()).map(|index| records.message(index));
    let messages: Vec<_> = messages.map(|message| message.compact()).collect();
    let built = messages.iter().collect::<RecordsBuilder>().build().unwrap();
    for (index, message) in (0..).zip(&messages) {
        let again = built.message(index);
        assert_eq!(message.body(), again.body());
        assert_eq!(message.attributes(), again.attributes());
    }
}

fn headers(data: &[u8]) {
    let Some(headers) = Headers::decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    assert_eq!(headers.size(), data.len());
    let mut built = Headers::new();
    for (name, value) in headers.iter() {
        if built.insert(name, value).is_ok() {
            assert_eq!(headers.get(name), built.get(name));
        }
    }
    let _ = format!("{headers:?}");
}

/// Names of streams, groups, headers and schemas.
fn names(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Name::new(&text) {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!(Name::new(format!("{name}\0")).is_err());
        }
        Err(error) => assert!(error.to_string().len() < 2000),
    }
    match Headers::new().insert(&text, data) {
        Ok(()) => assert!(!text.is_empty() && text.len() <= Headers::MAX_NAME_BYTES),
        Err(error) => assert!(error.to_string().len() < 2000 + 10 * Headers::MAX_NAME_BYTES),
    }
    #[cfg(feature = "postgres")]
    {
        let options = crate::storage::PostgresOptions::new().schema(text.clone());
        if let Ok(sql) = crate::storage::schema_sql(&options) {
            assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
            assert!(!text.starts_with("pg_") && sql.contains(&format!("\"{text}\".")));
        }
    }
}

/// Those of storages that would ask the network or the file system are only parsed.
fn urls(data: &[u8]) {
    let url = String::from_utf8_lossy(data);
    if url.starts_with("redb:") {
        return;
    }
    #[cfg(feature = "postgres")]
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        let _ = url.parse::<sqlx::postgres::PgConnectOptions>();
        return;
    }
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime =
        RUNTIME.get_or_init(|| Builder::new_current_thread().enable_time().build().unwrap());
    let _entered = runtime.enter();
    let opening = Box::pin(Options::new().open(&url));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let opened = std::pin::pin!(opening).poll(&mut context);
    match opened {
        std::task::Poll::Ready(opened) => assert_eq!(opened.is_ok(), url == "memory:", "{url:?}"),
        std::task::Poll::Pending => panic!("there is nothing to wait for"),
    }
}

#[cfg(test)]
#[path = "../tests/support/random.rs"]
pub(crate) mod random;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::random::Random;
    use super::*;

    /// What was worth keeping; a package has none.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let Ok(files) = std::fs::read_dir(path.join(target)) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    }

    fn hurt(mut data: Vec<u8>, random: &mut Random) -> Vec<u8> {
        for _ in 0..1 + random.below(4) {
            let at = random.below(data.len() + 1);
            let byte = *random.pick(&[0, 1, b' ', b',', b'{', 0x7f, 0x80, 0xff]);
            match random.below(4) {
                0 => data.truncate(at),
                1 => data.insert(at, byte),
                _ if at < data.len() => data[at] = byte,
                _ => data.push(byte),
            }
        }
        data
    }

    #[test]
    fn no_target_finds_anything() {
        for (target, run) in TARGETS {
            let corpus = corpus(target);
            corpus.iter().for_each(|data| run(data));
            let mut random = Random::new(1);
            // A file is written, opened and read.
            let rounds = if *target == "file" { 100 } else { 5_000 };
            for _ in 0..rounds {
                let len = random.below(80);
                let data = match corpus.is_empty() || random.one_in(4) {
                    true => random.bytes(len),
                    false => hurt(random.pick(&corpus).clone(), &mut random),
                };
                run(&data);
            }
        }
    }
}
