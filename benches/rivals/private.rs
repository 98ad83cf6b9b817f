//! Servers that are nobody else's.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long one may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with this, or with the benchmark.
pub(crate) struct Private(Child);

impl Private {
    /// Starts it, and waits until it answers.
    pub(crate) fn start<T>(
        command: &mut Command,
        log: &Path,
        mut connect: impl FnMut() -> io::Result<T>,
    ) -> Result<(Self, T), String> {
        let file = File::create(log).map_err(|error| error.to_string())?;
        let output = file.try_clone().map_err(|error| error.to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(file)
            .spawn();
        let mut server = Self(child.map_err(|error| error.to_string())?);
        let began = Instant::now();
        loop {
            match connect() {
                Ok(connection) => return Ok((server, connection)),
                Err(error) if began.elapsed() > PATIENCE => {
                    return Err(format!("it does not answer: {error}"));
                }
                Err(_) => {}
            }
            if let Ok(Some(status)) = server.0.try_wait() {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                return Err(format!("it ended ({status}): {said}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Its own id, so nobody else's.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What runs a program so that it ends when this process does, where that can be had.
pub(crate) fn command(program: &Path) -> Command {
    let with = ["/usr/bin/setpriv", "/bin/setpriv"].map(Path::new);
    match with.into_iter().find(|path| path.exists()) {
        Some(path) => {
            let mut command = Command::new(path);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The program that a variable names, or the one of this name.
pub(crate) fn find(variable: &str, name: &str) -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| format!("{name} is not installed"))
}

/// The first number with dots that it says of itself.
pub(crate) fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |word: &str| word.trim_start_matches(['v', '=']).to_owned();
    said.split([' ', '=', '\n'])
        .map(number)
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))
        .ok_or(said)
}
