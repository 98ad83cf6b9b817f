//! Places that a file cannot be in, and disks that are full: the embedded storage says so, loses
//! nothing, and goes on when there is room. The test runs itself as a child where it needs another
//! process.
#![cfg(all(unix, feature = "redb"))]
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is meant"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use flowstream::{AppendError, Batch, ErrorKind, Flowstream, Message, Options, Result};

const CHILD: &str = "FLOWSTREAM_PLACE_CHILD";
const FILE: &str = "FLOWSTREAM_PLACE_FILE";

async fn open(path: &Path) -> Result<Flowstream> {
    let options = Options::new().retry_for(Duration::ZERO);
    options.open(&format!("redb:{}", path.display())).await
}

/// This test again, in another process, which begins with these words.
fn run(before: &[&str], role: &str, path: &Path) -> Output {
    let program = std::env::current_exe().unwrap();
    let (first, rest) = match before {
        [] => (program.as_os_str(), &[][..]),
        [first, rest @ ..] => (first.as_ref(), rest),
    };
    let mut command = Command::new(first);
    command.args(rest);
    if !before.is_empty() {
        command.arg(&program);
    }
    command.args(["--exact", "child", "--nocapture"]);
    command.env(CHILD, role).env(FILE, path).output().unwrap()
}

/// What it printed; it must have succeeded.
fn said(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complained}");
    said
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.redb");
    let flow = open(&path).await.unwrap();
    let mut producer = flow.producer("orders").await.unwrap();
    producer.append(Message::new("a")).await.unwrap();
    let text = said(run(&[], "open", &path));
    assert!(text.contains("kind: Unavailable"), "{text}");
    assert!(text.contains("in another process"), "{text}");
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    producer.append(Message::new("b")).await.unwrap();
    flow.close().await.unwrap();
    let text = said(run(&[], "open", &path));
    assert!(text.contains("opened: [0..2]"), "{text}");
}

#[tokio::test]
async fn a_file_without_the_rights_to_it_is_unavailable_and_stays_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.redb");
    let flow = open(&path).await.unwrap();
    flow.create_stream("orders", 1).await.unwrap();
    flow.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // The superuser has all rights, so somebody else tries.
    let is_root =
        fs::write("/proc/self/oom_score_adj", "0").is_ok() && fs::read("/etc/shadow").is_ok();
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let who = if is_root { &nobody[..] } else { &[] };
    for (file, parent) in [(0o000, 0o755), (0o444, 0o755), (0o666, 0o000)] {
        mode(&path, file);
        mode(directory.path(), parent);
        let output = run(who, "open", &path);
        mode(directory.path(), 0o755);
        let text = said(output);
        if text.is_empty() {
            println!("nobody may run this program: skipped");
            return;
        }
        assert!(
            text.contains("kind: Unavailable"),
            "{file:o} {parent:o}: {text}"
        );
        assert!(text.contains("ermission denied"), "{text}");
    }
    // Where no file can be made.
    mode(directory.path(), 0o555);
    let output = run(who, "open", &directory.path().join("new.redb"));
    mode(directory.path(), 0o755);
    let text = said(output);
    assert!(text.contains("kind: Unavailable"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "no draft is left"
    );
}

/// A limit on the size of a file stands in for a disk.
#[test]
fn a_file_that_cannot_grow_is_an_error_until_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.redb");
    // Who ignores the signal gets an error of the write.
    let script = r#"trap "" XFSZ; exec prlimit --fsize=3000000: "$0" "$@""#;
    let text = said(run(&["sh", "-c", script], "limit", &path));
    println!("{text}");
    assert!(text.contains("full, then well"), "{text}");
}

#[test]
fn a_disk_that_is_full_is_an_error_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.redb");
    let mount = r#"mount -t tmpfs -o size=4m none "$0" && exec "$@""#;
    let place = directory.path().to_str().unwrap();
    let output = run(&["unshare", "-m", "sh", "-c", mount, place], "disk", &path);
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    if ["unshare:", "mount:"]
        .iter()
        .any(|who| complained.contains(who))
    {
        println!("no disk can be mounted here: skipped");
        return;
    }
    let text = said(output);
    println!("{text}");
    assert!(text.contains("full, then well"), "{text}");
}

#[tokio::test]
async fn a_file_system_that_is_read_only_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let [source, place] = ["made.redb", "mounted"].map(|name| directory.path().join(name));
    open(&source).await.unwrap().close().await.unwrap();
    fs::create_dir(&place).unwrap();
    let path = place.join("orders.redb");
    let mount = r#"mount -t tmpfs -o size=16m none "$0" && cp "$1" "$0/orders.redb" &&
        mount -o remount,ro "$0" && shift && exec "$@""#;
    let before = ["unshare", "-m", "sh", "-c", mount];
    let places = [&place, &source].map(|path| path.to_str().unwrap());
    for path in [path, place.join("new.redb")] {
        let output = run(&[&before[..], &places[..]].concat(), "open", &path);
        let complained = String::from_utf8_lossy(&output.stderr).into_owned();
        if ["unshare:", "mount:"]
            .iter()
            .any(|who| complained.contains(who))
        {
            println!("nothing can be mounted here: skipped");
            return;
        }
        let text = said(output);
        assert!(text.contains("kind: Unavailable"), "{text}");
        assert!(
            text.contains("a file system that nothing can be written to"),
            "{text}"
        );
    }
}

/// Not a test: what the others run.
#[tokio::test]
async fn child() {
    let Ok(role) = std::env::var(CHILD) else {
        return;
    };
    let path = std::env::var(FILE).unwrap();
    let path = Path::new(&path);
    match &*role {
        "open" => match open(path).await {
            Ok(flow) => println!("opened: {:?}", flow.bounds("orders").await.unwrap()),
            Err(error) => println!("kind: {:?}, {error}", error.kind()),
        },
        "limit" => {
            fill(path, || {
                let me = std::process::id().to_string();
                let mut raise = Command::new("prlimit");
                raise.args(["--pid", &me, "--fsize=unlimited:"]);
                assert!(raise.status().unwrap().success());
            })
            .await;
        }
        _ => {
            let ballast = path.with_file_name("ballast");
            fs::write(&ballast, vec![1; 1_500_000]).unwrap();
            fill(path, || fs::remove_file(&ballast).unwrap()).await;
        }
    }
}

/// Appends until there is no room, makes some, and goes on.
async fn fill(path: &Path, make_room: impl FnOnce()) {
    let flow = open(path).await.unwrap();
    let mut producer = flow.producer("orders").await.unwrap();
    let body = |number: u64| Message::new(format!("{number} {}", "x".repeat(30_000)));
    let mut acked = 0;
    let mut unsent: Batch = loop {
        match producer.append(body(acked)).await {
            Ok(_) => acked += 1,
            Err(error) => break refused(error),
        }
        assert!(acked < 10_000, "it never fills");
    };
    // As long as it is full it says so, and what is there can be read.
    for _ in 0..3 {
        match producer.append(unsent).await {
            Ok(_) => panic!("there was room"),
            Err(error) => unsent = refused(error),
        }
        assert_eq!(flow.bounds("orders").await.unwrap(), [0..acked]);
        assert_eq!(flow.read("orders", 0, 0).await.unwrap()[0].0, 0);
    }
    make_room();
    let full_at = acked;
    producer.append(unsent).await.unwrap();
    for number in acked + 1..acked + 10 {
        producer.append(body(number)).await.unwrap();
    }
    acked += 10;
    drop(producer);
    check(&flow, acked).await;
    flow.close().await.unwrap();
    check(&open(path).await.unwrap(), acked).await;
    println!("{full_at} messages until it was full, then well, {acked} in the log");
}

fn refused(error: AppendError) -> Batch {
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    error.unsent
}

async fn check(flow: &Flowstream, acked: u64) {
    assert_eq!(flow.bounds("orders").await.unwrap(), [0..acked]);
    let mut next = 0;
    while next < acked {
        for (offset, message) in flow.read("orders", 0, next).await.unwrap() {
            assert_eq!(offset, next);
            assert!(message.body().starts_with(format!("{next} x").as_bytes()));
            next += 1;
        }
    }
}
