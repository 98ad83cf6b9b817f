//! The examples, run as a user runs them, against a server.

#![cfg(feature = "postgres")]

use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use postgres_support::Cluster;

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

/// An example, in the directory beside that of the tests, as it is now.
fn example(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let directory = BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let directory = test.parent().and_then(Path::parent).unwrap();
        let profile = match directory.file_name().and_then(OsStr::to_str).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        // The same features as these tests: what is built already is good.
        let mut features = vec!["postgres"];
        features.extend(cfg!(feature = "conformance").then_some("conformance"));
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--examples", "--profile", profile])
            .args(["--features", &features.join(",")])
            .arg("--target-dir")
            .arg(directory.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{stderr}");
        directory.join("examples")
    });
    let path = directory.join(name);
    path.with_extension(std::env::consts::EXE_EXTENSION)
}

fn command(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(example(name));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[track_caller]
fn run(name: &str, arguments: &[&str]) -> String {
    let output: Output = command(name, arguments).output().unwrap();
    assert!(output.status.success(), "{name}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn assert_said(output: &str, last: &str) {
    assert_eq!(output.lines().last(), Some(last), "{output}");
}

#[test]
fn quickstart_goes_on_wherever_it_was_killed() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("lines");
    let lines: String = (0..20_000)
        .map(|line| format!("this is line {line}\n"))
        .collect();
    fs::write(&file, lines).unwrap();
    let arguments = [file.to_str().unwrap(), "--storage", &url];
    for _ in 0..3 {
        let mut child = command("quickstart", &arguments).spawn().unwrap();
        let moment = RandomState::new().hash_one(()) % 700;
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        // As if the lease of who was killed had run out meanwhile.
        let free = "DO $$BEGIN IF to_regclass('flowstream.leases') IS NOT NULL THEN
            UPDATE flowstream.leases SET owner = NULL; END IF; END$$";
        cluster().psql(&database, free);
    }
    for _ in 0..2 {
        let said = run("quickstart", &arguments);
        assert_said(&said, "stream: 20000 messages, group: position 20000");
    }
    let once = "SELECT count(*), count(DISTINCT body) FROM flowstream.messages";
    assert_eq!(cluster().psql(&database, once).trim(), "20000|20000");
    let in_order = "SELECT bool_and(body = 'this is line ' || \"offset\") FROM flowstream.messages";
    assert_eq!(cluster().psql(&database, in_order).trim(), "t");
}

#[test]
fn the_other_examples_run_again_and_again() {
    let url = cluster().socket_url(&cluster().database());
    for _ in 0..2 {
        assert_said(
            &run("forward", &[&url]),
            "each message is in shouted once, in the order of said",
        );
        let said = run("housekeeping", &[&url]);
        assert!(
            said.lines().last().unwrap().contains("trimmed to"),
            "{said}"
        );
    }
}

#[test]
fn tables_and_events_agree() {
    let url = cluster().url(&cluster().database());
    for _ in 0..2 {
        assert_said(
            &run("outbox", &[&url]),
            "each order has one event and one shipment",
        );
    }
}

#[test]
fn a_pipeline_that_is_killed_doubles_nothing() {
    let url = cluster().url(&cluster().database());
    assert_said(
        &run("exactly_once", &[&url]),
        "each number has its square, once, in order",
    );
}

#[test]
fn what_cannot_be_opened_says_why() {
    let nowhere = "postgres://secret:hunter2@127.0.0.1:1/x";
    let missing = cluster().url_as("postgres:hunter2", "no_such_database");
    for (url, says) in [
        (nowhere, "cannot be reached"),
        (&missing, "create it first"),
    ] {
        let output = command("quickstart", &["--storage", url]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.contains(says) && !stderr.contains("hunter2"),
            "{stderr}"
        );
    }
}
