//! The protocol of Redis, as far as it is needed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

#[derive(Debug)]
pub(crate) enum Reply {
    Text(Vec<u8>),
    Number,
    Nothing,
    List(Vec<Self>),
}

impl Reply {
    pub(crate) fn list(self) -> Vec<Self> {
        match self {
            Self::List(list) => list,
            Self::Nothing => Vec::new(),
            other => panic!("no list: {other:?}"),
        }
    }

    pub(crate) fn text(self) -> Vec<u8> {
        match self {
            Self::Text(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }
}

/// Commands that are gathered, then sent in one write.
pub(crate) struct Resp {
    stream: BufReader<UnixStream>,
    output: Vec<u8>,
    waiting: usize,
}

impl Resp {
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::with_capacity(1 << 16, UnixStream::connect(path)?),
            output: Vec::new(),
            waiting: 0,
        })
    }

    pub(crate) fn push(&mut self, words: &[&[u8]]) {
        let _ = write!(self.output, "*{}\r\n", words.len());
        for word in words {
            let _ = write!(self.output, "${}\r\n", word.len());
            self.output.extend_from_slice(word);
            self.output.extend_from_slice(b"\r\n");
        }
        self.waiting += 1;
    }

    /// Sends what was gathered, and gives the last answer.
    pub(crate) fn flush(&mut self) -> Reply {
        let sent = self.stream.get_mut().write_all(&self.output);
        sent.expect("a server that reads");
        self.output.clear();
        let mut last = Reply::Nothing;
        for _ in 0..std::mem::take(&mut self.waiting) {
            last = self.reply();
        }
        last
    }

    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Reply {
        self.push(words);
        self.flush()
    }

    fn reply(&mut self) -> Reply {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("an answer");
        let (kind, rest) = line.trim_end().split_at(1);
        let count = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Reply::Text(rest.into()),
            "-" => panic!("{rest}"),
            ":" => Reply::Number,
            "$" if count() < 0 => Reply::Nothing,
            "$" => {
                let length = count() as usize;
                let mut text = vec![0; length + 2];
                self.stream.read_exact(&mut text).expect("an answer");
                text.truncate(length);
                Reply::Text(text)
            }
            "*" if count() < 0 => Reply::Nothing,
            "*" => Reply::List((0..count()).map(|_| self.reply()).collect()),
            _ => panic!("what is {line:?}?"),
        }
    }
}
