//! The example `quickstart`, run as a user runs it: stopped, killed, started again, given bad input.

#![cfg(feature = "redb")]

use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use flowstream::Message;
use tempfile::TempDir;

const STREAM: &str = "lines";
const GROUP: &str = "workers";

/// A directory with a storage and files.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().canonicalize().unwrap().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn url(&self) -> String {
        format!("redb:{}", self.0.path().join("lines.redb").display())
    }

    fn quickstart(&self, args: &[&str]) -> Command {
        let mut command = Command::new(quickstart());
        command
            .args(args)
            .args(["--storage", &self.url()])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.quickstart(args).output().unwrap()
    }

    /// Runs to a normal end: so many messages, all done.
    #[track_caller]
    fn run_to(&self, args: &[&str], messages: u64) {
        assert_ended(&self.run(args), messages);
    }

    fn run_with_stdin(&self, stdin: &[u8]) -> Output {
        let mut child = self
            .quickstart(&["-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The whole stream; all of it is done.
    async fn stream(&self) -> Vec<Message> {
        let flow = flowstream::open(&self.url()).await.unwrap();
        let mut messages = Vec::new();
        loop {
            let page = flow.read(STREAM, 0, messages.len() as u64).await.unwrap();
            if page.is_empty() {
                break;
            }
            for (offset, message) in page {
                assert_eq!(offset, messages.len() as u64);
                messages.push(message);
            }
        }
        let group = &flow.group(STREAM, GROUP).await.unwrap()[0];
        assert_eq!(group.progress.position(), messages.len() as u64);
        assert_eq!(group.bounds, 0..messages.len() as u64);
        flow.close().await.unwrap();
        messages
    }
}

/// The example, in the directory beside that of the tests. `cargo test --test quickstart` does not
/// build it, and one of yesterday must not be what is tested.
fn quickstart() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let directory = test.parent().and_then(Path::parent).unwrap();
        let profile = match directory.file_name().and_then(OsStr::to_str).unwrap() {
            "debug" => "dev",
            profile => profile,
        };
        let mut build = Command::new(env!("CARGO"));
        build
            .args([
                "build",
                "--quiet",
                "--example",
                "quickstart",
                "--profile",
                profile,
            ])
            .arg("--target-dir")
            .arg(directory.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        // The same features as these tests: what is built already is good.
        for (feature, is_on) in [
            ("conformance", cfg!(feature = "conformance")),
            ("postgres", cfg!(feature = "postgres")),
        ] {
            if is_on {
                build.args(["--features", feature]);
            }
        }
        let built = build.output().unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
        directory
            .join("examples/quickstart")
            .with_extension(std::env::consts::EXE_EXTENSION)
    })
}

fn last_line(output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout);
    stdout.lines().last().unwrap_or_default().to_owned()
}

#[track_caller]
fn assert_ended(output: &Output, messages: u64) {
    assert!(output.status.success(), "{output:?}");
    let expected = format!("stream: {messages} messages, group: position {messages}");
    assert_eq!(last_line(output), expected, "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !stderr.contains('\x1b'),
        "a bar that nobody can see: {stderr:?}"
    );
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, tells: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.starts_with("Error: "), "{stderr}");
    assert!(stderr.contains(tells), "{tells:?} is not in {stderr}");
}

/// Lines `from + 1` to `to`.
fn numbered(from: usize, to: usize) -> String {
    (from..to)
        .map(|line| format!("this is line {}\n", line + 1))
        .collect()
}

fn bodies(messages: &[Message]) -> Vec<&[u8]> {
    messages.iter().map(|message| &message.body()[..]).collect()
}

#[track_caller]
fn assert_lines(messages: &[Message], source: &Path, expected: impl Iterator<Item = String>) {
    let mut count = 0;
    for (message, (number, body)) in messages.iter().zip((1..).zip(expected)) {
        assert_eq!(message.body(), &body, "line {number}");
        let header = |name| message.headers().get(name).unwrap();
        assert_eq!(header("source"), source.as_os_str().as_encoded_bytes());
        assert_eq!(header("line"), format!("{number}").as_bytes());
        count += 1;
    }
    assert_eq!(count, messages.len());
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn run_again_it_adds_nothing() {
    let place = Place::new();
    let file = place.file("a", numbered(0, 30_000));
    place.run_to(&[text(&file)], 30_000);
    place.run_to(&[text(&file)], 30_000);
    // Under another path it is the same file.
    place.run_to(&["./a"], 30_000);
    let expected = numbered(0, 30_000);
    assert_lines(
        &place.stream().await,
        &file,
        expected.lines().map(str::to_owned),
    );
}

#[test]
fn without_a_file_it_sends_the_sources_of_the_crate() {
    let place = Place::new();
    let first = place.run(&[]);
    assert!(first.status.success(), "{first:?}");
    let second = place.run(&[]);
    assert!(second.status.success(), "{second:?}");
    assert!(last_line(&first).starts_with("stream: "));
    assert_eq!(last_line(&first), last_line(&second));
}

#[tokio::test]
async fn another_file_goes_behind() {
    let place = Place::new();
    let (a, b) = (
        place.file("a", numbered(0, 9_000)),
        place.file("b", "x\ny\n"),
    );
    place.run_to(&[text(&a)], 9_000);
    place.run_to(&[text(&b)], 9_002);
    // Both have grown since.
    fs::write(&a, numbered(0, 12_000)).unwrap();
    fs::write(&b, "x\ny\nz\n").unwrap();
    place.run_to(&[text(&a)], 12_002);
    place.run_to(&[text(&b)], 12_003);
    place.run_to(&[text(&a)], 12_003);
    let stream = place.stream().await;
    assert_eq!(bodies(&stream[9_000..9_002]), [b"x", b"y"]);
    assert_eq!(stream[9_002].body(), "this is line 9001");
    assert_eq!(stream[12_002].body(), "z");
}

#[tokio::test]
async fn each_run_of_the_standard_input_is_a_source() {
    let place = Place::new();
    for messages in [2, 4] {
        let output = place.run_with_stdin(b"x\ny");
        assert_ended(&output, messages);
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(stdout.contains("each run is a new source"), "{stdout}");
    }
    assert_eq!(bodies(&place.stream().await), [b"x", b"y", b"x", b"y"]);
}

#[tokio::test]
async fn lines_are_bytes() {
    let place = Place::new();
    let file = place.file("odd", b"\xff\xfe\r\n\r\n\nbare\rreturn\n last ");
    place.run_to(&[text(&file)], 5);
    let expected: [&[u8]; 5] = [b"\xff\xfe", b"", b"", b"bare\rreturn", b" last "];
    assert_eq!(bodies(&place.stream().await), expected);
}

#[test]
fn an_empty_file_is_nothing() {
    let place = Place::new();
    let file = place.file("empty", "");
    place.run_to(&[text(&file)], 0);
}

#[tokio::test]
async fn a_line_over_the_limit_ends_it_behind_those_before() {
    let place = Place::new();
    let mut content = b"one\ntwo\n".to_vec();
    content.resize(content.len() + (8 << 20) + 1, b'x');
    content.extend_from_slice(b"\nbehind\n");
    let file = place.file("long", &content);
    assert_fails(&place.run(&[text(&file)]), 1, "line 3 of ");
    assert_fails(&place.run(&[text(&file)]), 1, "longer than 8 MiB");
    content.remove(8);
    fs::write(&file, &content).unwrap();
    place.run_to(&[text(&file)], 4);
    let stream = place.stream().await;
    assert_eq!(stream[2].body().len(), 8 << 20);
    assert_eq!(stream[3].body(), "behind");
}

#[test]
fn bad_input_is_an_error() {
    let place = Place::new();
    let file = place.file("a", "x\n");
    assert_fails(&place.run(&["missing"]), 1, "cannot read missing");
    assert_fails(&place.run(&["."]), 1, "is a directory");
    assert_fails(&place.run(&["a", "b"]), 2, "usage: ");
    assert_fails(&place.run(&["--fast"]), 2, "unknown option --fast");
    assert_fails(&place.run(&["a", "--storage"]), 2, "usage: ");
    let opened = |url: &str| {
        let mut command = Command::new(quickstart());
        command
            .arg(&file)
            .args(["--storage", url])
            .current_dir(place.0.path());
        command.output().unwrap()
    };
    assert_fails(&opened("nowhere:a"), 1, "nowhere");
    assert_fails(&opened("lines"), 1, "lines");
    assert_fails(&opened("redb:"), 1, "path");
    assert_fails(&opened("redb:no/such/directory.redb"), 1, "no/such");
    // It is left as it is.
    assert_fails(&opened("redb:a"), 1, "not a redb database");
    assert_eq!(fs::read(&file).unwrap(), b"x\n");
    let help = place.run(&["--help"]);
    assert!(help.status.success());
    assert!(help.stdout.starts_with(b"usage: "));
}

#[tokio::test]
async fn a_second_process_is_told_that_the_file_is_open() {
    let place = Place::new();
    let file = place.file("a", "x\n");
    let flow = flowstream::open(&place.url()).await.unwrap();
    assert_fails(&place.run(&[text(&file)]), 1, "lines.redb is open already");
    flow.close().await.unwrap();
    place.run_to(&[text(&file)], 1);
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_stops_it_cleanly_and_it_goes_on() {
    let place = Place::new();
    let file = place.file("a", numbered(0, 200_000));
    let mut child = place.quickstart(&[text(&file)]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    // It says where it stands, and goes to work.
    let mut said = String::new();
    for _ in 0..2 {
        stdout.read_line(&mut said).unwrap();
    }
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    stdout.read_to_string(&mut said).unwrap();
    let status = child.wait().unwrap();
    // It may have been at its end already.
    assert!(matches!(status.code(), Some(130 | 0)), "{status}: {said}");
    let last = said.lines().last().unwrap();
    let (messages, position) = last
        .strip_prefix("stream: ")
        .and_then(|rest| rest.split_once(" messages, group: position "))
        .unwrap_or_else(|| panic!("{said}"));
    let (messages, position): (u64, u64) = (messages.parse().unwrap(), position.parse().unwrap());
    assert!(position <= messages && messages <= 200_000, "{last}");

    let again = place.run(&[text(&file)]);
    assert_ended(&again, 200_000);
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("going on behind") || messages == 0, "{said}");
    let expected = numbered(0, 200_000);
    assert_lines(
        &place.stream().await,
        &file,
        expected.lines().map(str::to_owned),
    );
}

#[tokio::test]
async fn killed_at_any_moment_it_goes_on() {
    let place = Place::new();
    let content = numbered(0, 200_000);
    let file = place.file("a", &content);
    for _ in 0..10 {
        let mut child = place.quickstart(&[text(&file)]).spawn().unwrap();
        let moment = RandomState::new().hash_one(()) % 500;
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    place.run_to(&[text(&file)], 200_000);
    place.run_to(&[text(&file)], 200_000);
    assert_lines(
        &place.stream().await,
        &file,
        content.lines().map(str::to_owned),
    );
}
