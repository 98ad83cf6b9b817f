//! A disk that is full for a while.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::crew::Terms;
use crate::nemesis::{Faults, Kind};
use crate::place::{Place, SETTINGS};
use crate::postgres_support::Cluster;
use crate::process_support::history::{PATIENCE, What};
use crate::scene::{Scene, tell};

/// A small file system in memory. It is gone with its handle, and with this process.
struct Disk {
    directory: PathBuf,
    guard: Option<Child>,
}

impl Disk {
    /// `None` where this user must not mount one.
    fn new(megabytes: u32) -> Option<Self> {
        let name = format!("flowstream-disk-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(&directory)
            .stderr(Stdio::null())
            .status();
        if !mounted.is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_dir(&directory);
            return None;
        }
        // After the guard of the server, which has its data there.
        let script = r#"cat >/dev/null; for _ in $(seq 300); do
            umount "$0" 2>/dev/null && break; sleep 0.1; done; rmdir "$0""#;
        let guard = Command::new("setsid")
            .args(["sh", "-c", script])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Some(Self {
            directory,
            guard: Some(guard.expect("the guard is started")),
        })
    }

    /// Takes all room that is left.
    fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("a file");
        let block = vec![0; 64 << 10];
        while file.write_all(&block).is_ok() {}
        // What is left is less than a block.
        while file.write_all(&block[..512]).is_ok() {}
    }

    fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("it is removed");
    }

    fn ballast(&self) -> PathBuf {
        self.directory.join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            // It has nothing to say, and cleans up as well as it can.
            let _ = guard.wait();
        }
    }
}

#[test]
fn a_full_disk_is_waited_for() {
    let Some(disk) = Disk::new(192) else {
        return println!("no small disk can be mounted here: skipped");
    };
    if !Cluster::can_use(&disk.directory) {
        return println!("the server cannot use a small disk: skipped");
    }
    // Little room for the log of the server, so that it runs out soon as well.
    let mut settings = SETTINGS.to_vec();
    settings.extend([("max_wal_size", "32MB"), ("min_wal_size", "32MB")]);
    let place = Place::new(Cluster::start_in(&disk.directory, &settings));
    let terms = Terms::default();
    let bound = terms.in_flight;
    let mut scene = Scene::new("disk full", place, terms);
    let outcome = scene.round(|place, crew, _| {
        let mut faults = Faults::default();
        let mark = crew.history.mark();
        disk.fill();
        faults.add(Kind::FillDisk);
        // A writer has heard of it, or the server could not go on at all.
        let told = || crew.history.find(mark, |event| event.what == What::Error);
        let deadline = Instant::now() + PATIENCE;
        while place.cluster().pid().is_some() && !(told().is_some() && is_full(place)) {
            assert!(Instant::now() < deadline, "the server runs out of room");
            std::thread::sleep(Duration::from_millis(20));
        }
        disk.free();
        faults
    });
    let outcome = outcome.unwrap();
    drop(scene);
    tell("disk full", &[outcome], &[], bound);
}

/// Whether the server says that there is no room.
fn is_full(place: &Place) -> bool {
    let sql = "CREATE TABLE public.more AS SELECT generate_series(1, 10000);
        DROP TABLE public.more";
    let tried = place.cluster().try_psql(&place.database, sql);
    tried.is_err_and(|error| error.contains("No space left on device"))
}
