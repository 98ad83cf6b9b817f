//! Processes whose wall clock jumps, by libfaketime.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

/// The wall clock of all processes that were started with its variables.
pub struct FakeTime {
    library: PathBuf,
    /// Readable for the user of a server.
    directory: TempDir,
}

impl FakeTime {
    /// `None` if libfaketime is not installed.
    pub fn new() -> Option<Self> {
        let places = fs::read_dir("/usr/lib").ok()?.flatten();
        let places = places.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library = places.into_iter().find(|path| path.exists())?;
        let directory = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o755))
            .tempdir();
        let time = Self {
            library,
            directory: directory.expect("a directory"),
        };
        time.set(0);
        Some(time)
    }

    /// For the environment of a process. Its monotonic clock stays as it is.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Lets the clock jump an hour ahead, back, and an hour behind, while this runs.
    pub fn while_it_jumps<T>(&self, run: impl FnOnce() -> T) -> T {
        let (over, is_over) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for offset in [3600, 0, -3600, 0].into_iter().cycle() {
                    self.set(offset);
                    let wait = is_over.recv_timeout(Duration::from_millis(300));
                    if wait != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            });
            // Dropped also if this panics.
            let _over = over;
            run()
        })
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("offset")
    }

    /// The clock is so many seconds ahead from now on. Nobody sees half a file.
    fn set(&self, seconds: i64) {
        let draft = self.directory.path().join("draft");
        fs::write(&draft, format!("{seconds:+}\n")).expect("the time is written");
        let readable = fs::set_permissions(&draft, Permissions::from_mode(0o644));
        readable.expect("it can be read");
        fs::rename(draft, self.file()).expect("the time is set");
    }
}
