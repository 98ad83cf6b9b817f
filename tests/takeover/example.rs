//! The example that stands by, in two processes: one is killed, the other goes on.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::cluster;

#[test]
fn the_example_goes_on_in_another_process() {
    let url = cluster().url(&cluster().database());
    let mut first = Cook::start(&url);
    first.says("has the lease, epoch 1");
    first.says("did order 1");
    let mut second = Cook::start(&url);
    second.says("stands by");
    first.process.kill().expect("it is killed");
    second.says("has the lease, epoch 2");
    second.says("did order 3 of");
}

struct Cook {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
}

impl Cook {
    fn start(url: &str) -> Self {
        let mut process = Command::new(program())
            .arg(url)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example runs");
        let output = process.stdout.take().expect("a pipe");
        let output = BufReader::new(output).lines();
        Self { process, output }
    }

    /// It ends by itself, so this does as well.
    fn says(&mut self, wanted: &str) {
        let mut lines = self.output.by_ref().map_while(Result::ok);
        assert!(lines.any(|line| line.contains(wanted)), "{wanted}");
    }
}

impl Drop for Cook {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Builds the example as this test was built, if that is still to be done.
fn program() -> PathBuf {
    // This test is in deps/, beside examples/.
    let test = std::env::current_exe().expect("the path of this test");
    let directory = test.parent().and_then(Path::parent);
    let directory = directory.expect("the directory of the profile");
    let profile = match directory.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let features = match cfg!(feature = "conformance") {
        true => "postgres conformance",
        false => "postgres",
    };
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "standby"])
        .args(["--features", features, "--profile", profile, "--target-dir"])
        .args(directory.parent())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.expect("cargo runs").success(), "it is built");
    directory.join("examples/standby")
}
