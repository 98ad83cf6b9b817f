//! The messages of PostgreSQL's protocol, as they are cut out of a stream of bytes.

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tag {
    /// A client asks for TLS or GSS, before anything else.
    Encryption,
    /// The one byte that says yes or no to it.
    EncryptionAnswer,
    /// The first message of a session.
    Startup,
    /// Instead of a session.
    Cancel,
    /// Any later message, by its letter.
    Typed(u8),
    /// What is encrypted cannot be cut into messages.
    Opaque,
}

/// One message, whole.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) tag: Tag,
    pub(super) bytes: Vec<u8>,
}

/// Cuts what one side sends into messages.
#[derive(Debug)]
pub(super) struct Splitter {
    waiting: Vec<u8>,
    next: Next,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    First,
    Answer,
    Typed,
    Opaque,
}

const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

impl Splitter {
    pub(super) fn of_client() -> Self {
        Self {
            waiting: Vec::new(),
            next: Next::First,
        }
    }

    pub(super) fn of_server() -> Self {
        Self {
            waiting: Vec::new(),
            next: Next::Typed,
        }
    }

    /// The client has asked for encryption.
    pub(super) fn expect_answer(&mut self) {
        self.next = Next::Answer;
    }

    /// From now on nothing can be read.
    pub(super) fn give_up(&mut self) {
        self.next = Next::Opaque;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.waiting.extend_from_slice(bytes);
    }

    /// The next message, once all of it is there.
    pub(super) fn next(&mut self) -> Option<Frame> {
        let (tag, length) = match self.next {
            Next::First => {
                let length = number(&self.waiting, 0)?;
                let tag = match number(&self.waiting, 4)? {
                    TLS | GSS => Tag::Encryption,
                    CANCEL => Tag::Cancel,
                    _ => Tag::Startup,
                };
                (tag, length as usize)
            }
            Next::Answer => (Tag::EncryptionAnswer, 1),
            Next::Typed => {
                let length = number(&self.waiting, 1)?;
                (Tag::Typed(self.waiting[0]), length as usize + 1)
            }
            Next::Opaque => (Tag::Opaque, self.waiting.len().max(1)),
        };
        if self.waiting.len() < length {
            return None;
        }
        let rest = self.waiting.split_off(length);
        let bytes = std::mem::replace(&mut self.waiting, rest);
        match tag {
            Tag::Startup => self.next = Next::Typed,
            Tag::EncryptionAnswer => self.next = Next::Typed,
            _ => {}
        }
        Some(Frame { tag, bytes })
    }
}

impl Frame {
    /// A query of the simple protocol.
    pub(super) fn query(sql: &str) -> Self {
        Self::typed(b'Q', &[sql.as_bytes(), &[0]].concat())
    }

    /// What a server says that ends the session.
    pub(super) fn fatal(code: &str) -> Self {
        let fields = format!("SFATAL\0VFATAL\0C{code}\0Mit was told to end\0\0");
        Self::typed(b'E', fields.as_bytes())
    }

    /// The server waits for the next statement, outside of a transaction.
    pub(super) fn ready() -> Self {
        Self::typed(b'Z', b"I")
    }

    fn typed(letter: u8, body: &[u8]) -> Self {
        let length = (body.len() as u32 + 4).to_be_bytes();
        Self {
            tag: Tag::Typed(letter),
            bytes: [&[letter], &length[..], body].concat(),
        }
    }

    pub(super) fn is(&self, letter: u8) -> bool {
        self.tag == Tag::Typed(letter)
    }

    /// Whether the server answers once it has this: a query, or a Sync.
    pub(super) fn ends_statement(&self) -> bool {
        self.is(b'Q') || self.is(b'S')
    }

    /// The strings with which the body begins: the text of a query; the name and the text of a Parse;
    /// the portal and the statement of a Bind.
    pub(super) fn strings(&self) -> (String, String) {
        let body = self.bytes.get(5..).unwrap_or_default();
        let mut strings = body.split(|byte| *byte == 0);
        let mut next = || String::from_utf8_lossy(strings.next().unwrap_or_default()).into_owned();
        (next(), next())
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
