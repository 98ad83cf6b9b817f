//! Runtimes, messages, and a place for files.

use std::cell::Cell;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use flowstream::Message;
use tokio::runtime::{Builder, Runtime};

/// The size of a message, in bytes.
pub(crate) const SIZE: usize = 100;

/// What a server cannot compress, and more of it than it looks back for what it saw before.
static NOISE: LazyLock<[u8; 128 << 10]> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::array::from_fn(|_| {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
});

/// So many bytes of it, that nothing is made of the figures by a compression.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    NOISE.iter().copied().cycle().take(len).collect()
}

pub(crate) fn message() -> Message {
    message_of(SIZE)
}

/// The body costs nothing to make, so that what is measured is not the allocator.
pub(crate) fn message_of(size: usize) -> Message {
    thread_local!(static AT: Cell<usize> = const { Cell::new(0) });
    let (at, noise) = (AT.get(), &*NOISE);
    AT.set((at + size) % (noise.len() - size));
    Message::new(&noise[at..][..size])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    Current,
    Multi,
}

impl Flavour {
    pub(crate) const ALL: [Self; 2] = [Self::Current, Self::Multi];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Multi => "multi",
        }
    }

    pub(crate) fn runtime(self) -> Runtime {
        let mut builder = match self {
            Self::Current => Builder::new_current_thread(),
            Self::Multi => Builder::new_multi_thread(),
        };
        builder.enable_all().build().expect("a runtime")
    }
}

/// Runs it as a task, where a service runs its tasks, and not on the thread that waits for it.
pub(crate) fn run<T: Send + 'static>(
    runtime: &Runtime,
    task: impl Future<Output = T> + Send + 'static,
) -> T {
    runtime
        .block_on(runtime.spawn(task))
        .expect("the case ran to its end")
}

/// A directory for the files of one case, removed afterwards.
pub(crate) struct Place(tempfile::TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let parent = parent();
        let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(parent);
        Self(dir.expect("a directory for the files"))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn url(&self, name: &str) -> String {
        format!("redb:{}", self.file(name).display())
    }
}

static PARENT: OnceLock<PathBuf> = OnceLock::new();

/// Puts the files into this directory instead of cargo's.
pub(crate) fn put_files_into(dir: PathBuf) {
    PARENT.set(dir).expect("the first to say so");
}

/// Where files are put.
pub(crate) fn parent() -> &'static Path {
    PARENT.get_or_init(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")))
}

/// The file system that the files are on, where it can be found out.
pub(crate) fn file_system() -> Option<String> {
    let path = parent().canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, kind.split(' ').next()?))
    });
    mounts
        .filter(|(mount, _)| path.starts_with(mount))
        .max_by_key(|(mount, _)| mount.len())
        .map(|(_, kind)| kind.to_owned())
}

/// How many tasks wanted a processor in the last minute, where it can be found out.
pub(crate) fn load() -> Option<f64> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    load.split(' ').next()?.parse().ok()
}

/// As people write it.
pub(crate) fn thousands(count: usize) -> String {
    match count {
        1_000.. => format!("{},{:03}", count / 1_000, count % 1_000),
        _ => count.to_string(),
    }
}
