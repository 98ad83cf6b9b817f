//! What a redb URL may be, and what is refused before a file is made of it. The test runs itself in a
//! directory of its own, because relative paths are meant.
#![cfg(all(unix, feature = "redb"))]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use flowstream::storage::{RedbOptions, RedbStorage, Storage as _};
use flowstream::{ErrorKind, Message, Options, SystemClock};

const CHILD: &str = "FLOWSTREAM_URL_CHILD";

/// Runs this program in a new directory, and gives what is there then.
fn run_in_directory(role: &str) -> Vec<PathBuf> {
    let directory = tempfile::tempdir().unwrap();
    // Who ignores the signal of a file that is too large gets an error of the write.
    let output = Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$0" "$@""#])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(CHILD, role)
        .current_dir(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    let mut found = Vec::new();
    let mut directories = vec![directory.path().to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.push(path.strip_prefix(directory.path()).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// `redb://orders.redb` used to make `/orders.redb`.
#[test]
fn what_is_not_the_path_of_a_file_is_refused_and_makes_none() {
    assert_eq!(run_in_directory("odd"), Vec::<PathBuf>::new());
}

#[test]
fn a_path_is_taken_as_it_is() {
    let mut expected = vec![
        PathBuf::from("a b.redb"),
        "a%20b.redb".into(),
        "dir/up.redb".into(),
        "inner/häuser#1.redb".into(),
        "plain.redb".into(),
        OsStr::from_bytes(b"raw\xff.redb").into(),
    ];
    expected.sort();
    assert_eq!(run_in_directory("good"), expected);
}

/// After an error the file used to be looked for in the directory where the process was then.
#[test]
fn a_relative_path_stays_what_it_was_when_the_process_goes_elsewhere() {
    let expected = ["home/orders.redb"].map(PathBuf::from);
    assert_eq!(run_in_directory("roam"), expected);
}

/// Not a test: what the others run.
#[tokio::test]
async fn child() {
    match std::env::var(CHILD).as_deref() {
        Ok("odd") => odd().await,
        Ok("good") => good().await,
        Ok("roam") => roam().await,
        _ => {}
    }
}

fn options() -> Options {
    Options::new().retry_for(Duration::ZERO)
}

async fn odd() {
    let long = format!("redb:{}.redb", "x".repeat(300));
    for (url, right) in [
        ("redb:", "redb:orders.redb"),
        ("redb://", "redb:orders.redb"),
        ("redb:///", "redb:orders.redb"),
        ("redb://orders-of-a-test.redb", "redb:orders-of-a-test.redb"),
        (
            "redb:///orders-of-a-test.redb",
            "redb:/orders-of-a-test.redb",
        ),
        (
            "redb:////orders-of-a-test.redb",
            "redb:/orders-of-a-test.redb",
        ),
        (
            "redb://localhost/orders-of-a-test.redb",
            "redb:/localhost/orders",
        ),
        ("redb::memory:", "memory:"),
        ("redb:orders.redb?mode=rwc", "Options"),
        ("redb: orders.redb", "white space"),
        ("redb:orders.redb\n", "white space"),
        ("redb:or\0ders.redb", "control characters"),
        ("redb:orders/", "give the path of a file in it"),
        ("redb:.", "give the path of a file in it"),
        ("redb:..", "give the path of a file in it"),
        ("redb:/", "give the path of a file in it"),
        ("redb:no/such/orders.redb", "no/such is not there"),
        ("redb:/dev/null", "a device"),
        ("redb:/dev/null/orders.redb", "/dev/null"),
        (&long, "is not the path of a file"),
        ("REDB:orders.redb", "redb:PATH"),
        ("orders.redb", "redb:PATH"),
    ] {
        let error = options().open(url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{url:?}: {error:?}");
        let text = error.to_string();
        assert!(text.contains(right), "{url:?}: {text}");
    }
    assert!(!Path::new("/orders-of-a-test.redb").exists());
    let clock = Arc::new(SystemClock::new());
    for path in ["", "or\0ders.redb"] {
        let opened = RedbStorage::open(path, RedbOptions::new(clock.clone())).await;
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let made = Command::new("mkfifo").arg("pipe").status().unwrap();
    assert!(made.success());
    let error = options().open("redb:pipe").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    fs::remove_file("pipe").unwrap();
}

async fn good() {
    fs::create_dir("inner").unwrap();
    fs::create_dir("dir").unwrap();
    let here = std::env::current_dir().unwrap();
    let absolute = format!("redb:{}/plain.redb", here.display());
    for url in [
        "redb:a b.redb",
        "redb:a%20b.redb",
        "redb:inner/../dir/up.redb",
        "redb:./inner/häuser#1.redb",
        &absolute,
    ] {
        let flow = options().open(url).await.unwrap();
        flow.create_stream("orders", 1).await.unwrap();
        flow.close().await.unwrap();
    }
    let raw = OsStr::from_bytes(b"raw\xff.redb");
    let options = || RedbOptions::new(Arc::new(SystemClock::new()));
    let storage = RedbStorage::open(raw, options()).await.unwrap();
    let error = RedbStorage::open(raw, options()).await.unwrap_err();
    assert!(error.to_string().contains("raw"), "{error}");
    storage.close().await.unwrap();
}

/// A limit on the size of a file makes an error, after which the file is opened anew.
async fn roam() {
    fs::create_dir("home").unwrap();
    fs::create_dir("away").unwrap();
    std::env::set_current_dir("home").unwrap();
    let flow = options().open("redb:orders.redb").await.unwrap();
    let mut producer = flow.producer("orders").await.unwrap();
    producer.append(Message::new("a")).await.unwrap();
    std::env::set_current_dir("../away").unwrap();
    let limit = |bytes: &str| {
        let me = std::process::id().to_string();
        let mut limit = Command::new("prlimit");
        let limit = limit.args(["--pid", &me, &format!("--fsize={bytes}:")]);
        assert!(limit.status().unwrap().success());
    };
    limit("3000000");
    let large = || Message::new("x".repeat(4_000_000));
    let refused = producer.append(large()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused:?}");
    limit("unlimited");
    producer.append(large()).await.unwrap();
    assert_eq!(flow.bounds("orders").await.unwrap()[0], 0..2);
    flow.close().await.unwrap();
}
