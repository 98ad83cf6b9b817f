//! The protocol by hand, as far as it takes to write blobs: what a socket option is worth.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::raw::INSERT_BLOB;

pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Wire {
    /// Connects as a superuser whom the server trusts, and prepares the statement.
    pub(crate) async fn connect(port: u16, database: &str, is_nodelay: bool) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let stream = stream.expect("a connection");
        stream.set_nodelay(is_nodelay).expect("an option");
        let mut wire = Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
        };
        const VERSION: i32 = 3 << 16;
        let names = format!("user\0postgres\0database\0{database}\0\0");
        let length = 8 + names.len();
        wire.output.extend((length as i32).to_be_bytes());
        wire.output.extend(VERSION.to_be_bytes());
        wire.output.extend(names.as_bytes());
        wire.round_trip().await;
        wire.message(b'P', &[b"blob\0", INSERT_BLOB.as_bytes(), b"\0\0\0"]);
        wire.message(b'S', &[]);
        wire.round_trip().await;
        wire
    }

    /// One statement, in one write.
    pub(crate) async fn insert_blob(&mut self, blob: &[u8]) {
        let length = (blob.len() as i32).to_be_bytes();
        // Portal, statement; one format: binary; one value; the formats of results.
        let head = b"\0blob\0\0\x01\0\x01\0\x01";
        self.message(b'B', &[head, &length, blob, b"\0\0"]);
        self.message(b'E', &[b"\0\0\0\0\0"]);
        self.message(b'S', &[]);
        self.round_trip().await;
    }

    fn message(&mut self, kind: u8, parts: &[&[u8]]) {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.output.push(kind);
        self.output.extend((length as i32 + 4).to_be_bytes());
        parts.iter().for_each(|part| self.output.extend(*part));
    }

    /// Sends what was written, and waits until the server is ready for more.
    async fn round_trip(&mut self) {
        let sent = self.stream.write_all(&self.output).await;
        sent.expect("a server that reads");
        self.output.clear();
        loop {
            while let Some((kind, length)) = self.next() {
                assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&self.input));
                self.input.drain(..length);
                if kind == b'Z' {
                    return;
                }
            }
            let read = self.stream.read_buf(&mut self.input).await;
            assert_ne!(read.expect("a server that answers"), 0, "it hung up");
        }
    }

    /// The kind and the length of the next message, if it is here.
    fn next(&self) -> Option<(u8, usize)> {
        let (kind, rest) = self.input.split_first()?;
        let length = i32::from_be_bytes(*rest.first_chunk()?) as usize + 1;
        (self.input.len() >= length).then_some((*kind, length))
    }
}
