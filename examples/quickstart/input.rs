//! Lines, as messages.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::thread::{self, JoinHandle};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use flowstream::{Headers, Message};
use futures::Stream;
use tokio::sync::mpsc;

use crate::progress::Progress;

/// The header with the name of the source, and the one with the number of the line in it.
pub(crate) const SOURCE: &str = "source";
pub(crate) const LINE: &str = "line";

/// The longest line, in bytes.
pub(crate) const MAX_LINE: usize = 8 << 20;
/// Room for the headers of a message, in bytes: a path is never longer than 4 KiB.
pub(crate) const MAX_HEADERS: usize = 8 << 10;

/// How much is read at once, in bytes.
const BLOCK: usize = 256 << 10;
/// How many blocks may wait to be sent.
const BLOCKS: usize = 4;

/// What to send.
pub(crate) enum Input {
    /// The sources of this crate.
    Crate,
    File(PathBuf),
    Stdin,
}

/// Something with lines. Its name stays the same from run to run.
pub(crate) struct Source {
    pub(crate) name: Bytes,
    /// `None` is the standard input.
    path: Option<PathBuf>,
    /// Its size in bytes, if it is known.
    pub(crate) bytes: Option<u64>,
    /// How many of its lines are in the stream.
    pub(crate) sent: u64,
    /// The last of them.
    pub(crate) last: Option<Bytes>,
}

impl Input {
    pub(crate) fn sources(self) -> Result<Vec<Source>> {
        match self {
            Self::Crate => {
                let mut paths = Vec::new();
                let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
                rust_files(&src, &mut paths)
                    .with_context(|| format!("cannot list {}", src.display()))?;
                paths.sort();
                paths.iter().map(|path| Source::file(path)).collect()
            }
            Self::File(path) => Ok(vec![Source::file(&path)?]),
            Self::Stdin => Ok(vec![Source::stdin()]),
        }
    }
}

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

impl Source {
    fn file(path: &Path) -> Result<Self> {
        let cannot = || format!("cannot read {}", path.display());
        let about = fs::metadata(path).with_context(cannot)?;
        ensure!(
            !about.is_dir(),
            "{} is a directory: give a file",
            path.display()
        );
        ensure!(
            about.is_file(),
            "{} is not a file that can be read again: give - and send it to the standard input",
            path.display()
        );
        File::open(path).with_context(cannot)?;
        // The same file under another path is the same source.
        let path = fs::canonicalize(path).with_context(cannot)?;
        Ok(Self {
            name: Bytes::copy_from_slice(path.as_os_str().as_encoded_bytes()),
            path: Some(path),
            bytes: Some(about.len()),
            sent: 0,
            last: None,
        })
    }

    /// It cannot be read again, so each run is a source of its own.
    fn stdin() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_nanos();
        Self {
            name: format!("stdin {now}-{}", std::process::id()).into(),
            path: None,
            bytes: None,
            sent: 0,
            last: None,
        }
    }

    pub(crate) fn is_stdin(&self) -> bool {
        self.path.is_none()
    }

    pub(crate) fn title(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "the standard input".to_owned(),
        }
    }

    fn open(&self) -> Result<Box<dyn Read>> {
        Ok(match &self.path {
            Some(path) => Box::new(
                File::open(path).with_context(|| format!("cannot read {}", path.display()))?,
            ),
            None => Box::new(io::stdin()),
        })
    }
}

/// The lines that are not in the stream yet, of one source after the other.
///
/// A thread reads them, ahead by a few blocks: a read of a file or a terminal has no place on the
/// threads of the runtime, and one that never ends must not keep the process from ending.
pub(crate) struct Lines {
    blocks: mpsc::Receiver<Vec<Message>>,
    block: std::vec::IntoIter<Message>,
}

impl Lines {
    /// The lines, and the thread that tells what went wrong.
    pub(crate) fn read(sources: Vec<Source>, progress: Progress) -> (Self, JoinHandle<Result<()>>) {
        let (sender, blocks) = mpsc::channel(BLOCKS);
        let reader = thread::spawn(move || {
            for source in sources {
                if !read(source, &progress, &sender)? {
                    break;
                }
            }
            Ok(())
        });
        let block = Vec::new().into_iter();
        (Self { blocks, block }, reader)
    }
}

impl Stream for Lines {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Message>> {
        loop {
            if let Some(message) = self.block.next() {
                return Poll::Ready(Some(message));
            }
            match std::task::ready!(self.blocks.poll_recv(cx)) {
                Some(block) => self.block = block.into_iter(),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// Reads a source to its end; `false` if nobody wants more.
fn read(source: Source, progress: &Progress, blocks: &mpsc::Sender<Vec<Message>>) -> Result<bool> {
    let mut input = BufReader::with_capacity(BLOCK, source.open()?);
    let mut lines = Numbered::new(source)?;
    // The start of a line that goes on in the next block.
    let mut rest = Vec::new();
    loop {
        let read = match input.fill_buf() {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let text = format!("cannot read {}", lines.source.title());
                return Err(error).context(text);
            }
        };
        let is_end = read.is_empty();
        let size = read.len();
        // Whole lines only, except at the end, where the last may have no line break.
        let whole = read
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        let block = if is_end || whole > 0 {
            let mut block = std::mem::take(&mut rest);
            block.extend_from_slice(&read[..whole]);
            block
        } else {
            Vec::new()
        };
        rest.extend_from_slice(&read[whole..]);
        input.consume(size);

        let mut messages = Vec::new();
        let taken = lines.take(&block.into(), &mut messages);
        progress.read(size, messages.len());
        if !messages.is_empty() && blocks.blocking_send(messages).is_err() {
            return Ok(false);
        }
        taken?;
        lines.check(rest.len())?;
        if is_end {
            lines.finish(progress);
            return Ok(true);
        }
    }
}

/// Counts the lines of a source, and makes messages of those that are not in the stream yet.
struct Numbered {
    source: Source,
    headers: Headers,
    line: u64,
    changed: bool,
}

impl Numbered {
    fn new(source: Source) -> Result<Self> {
        let mut headers = Headers::new();
        headers.insert(SOURCE, &source.name)?;
        Ok(Self {
            source,
            headers,
            line: 0,
            changed: false,
        })
    }

    /// The lines are slices of the block: nothing is copied.
    fn take(&mut self, block: &Bytes, messages: &mut Vec<Message>) -> Result<()> {
        for line in block.split_inclusive(|byte| *byte == b'\n') {
            let line = match line {
                [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => line,
                last => last,
            };
            self.check(line.len())?;
            self.line += 1;
            if self.line > self.source.sent {
                let mut headers = self.headers.clone();
                headers.insert(LINE, self.line.to_string())?;
                messages.push(Message::new(block.slice_ref(line)).with_headers(headers));
            } else if self.line == self.source.sent {
                self.changed = self.source.last.as_deref() != Some(line);
            }
        }
        Ok(())
    }

    /// The next line has at least so many bytes.
    fn check(&self, bytes: usize) -> Result<()> {
        if bytes > MAX_LINE {
            bail!(
                "line {} of {} is longer than {} MiB, which is the limit; the lines before it are sent",
                self.line + 1,
                self.source.title(),
                MAX_LINE >> 20
            );
        }
        Ok(())
    }

    fn finish(&self, progress: &Progress) {
        if self.changed || self.line < self.source.sent {
            progress.note(&format!(
                "{} has changed since its first {} lines were sent; they stay as they were",
                self.source.title(),
                self.source.sent
            ));
        }
    }
}
