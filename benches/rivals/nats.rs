//! The protocol of NATS, as far as it is needed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A message that came.
#[derive(Debug)]
pub(crate) struct Came {
    /// Where its sender wants an answer.
    pub(crate) reply: String,
    /// The status in its headers, if it has one.
    pub(crate) status: Option<String>,
    pub(crate) payload: Vec<u8>,
}

/// A connection with one inbox.
pub(crate) struct Nats {
    stream: BufReader<TcpStream>,
    output: Vec<u8>,
    pub(crate) inbox: String,
}

impl Nats {
    pub(crate) fn connect(port: u16, inbox: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut nats = Self {
            stream: BufReader::with_capacity(1 << 16, stream),
            output: Vec::new(),
            inbox: format!("_INBOX.{inbox}"),
        };
        let _ = write!(
            nats.output,
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\
             \"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}}\r\nSUB {} 1\r\nPING\r\n",
            nats.inbox
        );
        nats.send()?;
        while nats.line()? != "PONG" {}
        Ok(nats)
    }

    /// Gathers a message; what answers it comes to the inbox.
    pub(crate) fn push(&mut self, subject: &str, is_answered: bool, payload: &[u8]) {
        let reply = if is_answered { &self.inbox } else { "" };
        let _ = write!(self.output, "PUB {subject} {reply} {}\r\n", payload.len());
        self.output.extend_from_slice(payload);
        self.output.extend_from_slice(b"\r\n");
    }

    /// The same, with headers.
    pub(crate) fn push_with(
        &mut self,
        subject: &str,
        is_answered: bool,
        headers: &[(&str, &str)],
        payload: &[u8],
    ) {
        let mut head = String::from("NATS/1.0\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let reply = if is_answered { &self.inbox } else { "" };
        let _ = write!(
            self.output,
            "HPUB {subject} {reply} {} {}\r\n{head}",
            head.len(),
            head.len() + payload.len()
        );
        self.output.extend_from_slice(payload);
        self.output.extend_from_slice(b"\r\n");
    }

    pub(crate) fn send(&mut self) -> io::Result<()> {
        self.stream.get_mut().write_all(&self.output)?;
        self.output.clear();
        Ok(())
    }

    pub(crate) fn ask(&mut self, subject: &str, payload: &[u8]) -> Came {
        self.push(subject, true, payload);
        self.send().expect("a server that reads");
        self.next()
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Came {
        loop {
            let line = self.line().expect("a server that answers");
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            let size = |word: &str| word.parse::<usize>().expect("a size");
            let (reply, head, all) = match words[..] {
                ["MSG", _, _, all] => ("", 0, size(all)),
                ["MSG", _, _, reply, all] => (reply, 0, size(all)),
                ["HMSG", _, _, head, all] => ("", size(head), size(all)),
                ["HMSG", _, _, reply, head, all] => (reply, size(head), size(all)),
                _ => continue,
            };
            let mut payload = vec![0; all + 2];
            self.stream.read_exact(&mut payload).expect("the payload");
            payload.truncate(all);
            let headers = payload.drain(..head).collect::<Vec<_>>();
            let status = String::from_utf8_lossy(&headers);
            let status = status
                .lines()
                .next()
                .and_then(|line| line.split(' ').nth(1));
            return Came {
                reply: reply.to_owned(),
                status: status.map(str::to_owned),
                payload,
            };
        }
    }

    /// A line; what the server asks meanwhile is answered.
    fn line(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line == "PING" {
                self.stream.get_mut().write_all(b"PONG\r\n")?;
                continue;
            }
            if line.starts_with("-ERR") {
                return Err(io::Error::other(line));
            }
            return Ok(line.to_owned());
        }
    }
}
