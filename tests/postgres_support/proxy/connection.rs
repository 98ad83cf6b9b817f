//! One connection through a proxy.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Network;
use super::fault::{Cut, Direction, When, Wire};
use super::frames::{Frame, Splitter, Tag};

const DELAY: Duration = Duration::from_millis(30);
/// After this an end of which nothing is heard is given up, as by what keeps TCP alive.
const KEEPALIVE: Duration = Duration::from_secs(6);

pub(super) struct Connection {
    wire: Arc<Wire>,
    network: watch::Receiver<Network>,
    client: Side,
    server: Side,
    mode: Mode,
    /// Prepared statements.
    texts: HashMap<String, String>,
    /// The statement that the client is sending, or that the server works on.
    sql: String,
    is_within_statement: bool,
    /// A statement that is to fail, as far as it has come.
    failing: Option<(&'static str, When, Vec<Frame>)>,
    /// What the server said last of the transaction: idle, in one, in a failed one.
    status: u8,
    /// When it began to be dead.
    dead_since: Option<Instant>,
}

struct Side {
    /// `None` once it is closed.
    stream: Option<TcpStream>,
    splitter: Splitter,
    buffer: Vec<u8>,
}

/// What becomes of what comes.
enum Mode {
    Passes,
    /// Not to the client. Once the statement is over, the client is reset.
    LosesAnswer,
    /// Nothing goes to these until the network is healed; who is not among them hears all.
    Dead {
        server: bool,
        client: bool,
    },
    /// What the client sends is kept until it closes.
    Late(Vec<u8>),
}

/// It is over.
struct Over;

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Side {
    fn new(stream: TcpStream, splitter: Splitter) -> Self {
        // Else a message of a few bytes waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        Self {
            stream: Some(stream),
            splitter,
            buffer: vec![0; 64 << 10],
        }
    }

    /// What comes next is in the splitter then; whether anything did.
    async fn read(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return pending().await;
        };
        match stream.read(&mut self.buffer).await {
            Ok(count @ 1..) => {
                self.splitter.push(&self.buffer[..count]);
                true
            }
            _ => false,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => stream.write_all(bytes).await,
            None => Ok(()),
        }
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            let _ = stream.set_zero_linger();
        }
    }

    /// All that has come by now and is whole.
    fn frames(&mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.splitter.next()).collect()
    }
}

impl Connection {
    pub(super) fn new(
        client: TcpStream,
        server: TcpStream,
        wire: Arc<Wire>,
        network: watch::Receiver<Network>,
    ) -> Self {
        Self {
            wire,
            network,
            client: Side::new(client, Splitter::of_client()),
            server: Side::new(server, Splitter::of_server()),
            mode: Mode::Passes,
            texts: HashMap::new(),
            sql: String::new(),
            is_within_statement: false,
            failing: None,
            status: b'I',
            dead_since: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut heals = self.wire.heals.subscribe();
        let mut network = self.network.clone();
        loop {
            let (direction, came) = tokio::select! {
                came = self.client.read() => (Direction::ToServer, came),
                came = self.server.read() => (Direction::ToClient, came),
                _ = network.wait_for(|state| *state == Network::Cut) => return,
                _ = heals.changed() => match self.mode {
                    Mode::Passes => continue,
                    _ => return,
                },
                () = forgotten(self.dead_since) => return,
            };
            let state = network.wait_for(|state| *state != Network::Silent).await;
            let state = state.map_or(Network::Cut, |state| *state);
            let loses = state == Network::LosesAnswers && direction == Direction::ToClient;
            if state == Network::Cut || loses {
                return;
            }
            let goes_on = match (came, direction) {
                (true, Direction::ToServer) => self.forward_to_server().await,
                (true, Direction::ToClient) => self.forward_to_client().await,
                (false, _) => self.ended(direction).await,
            };
            if goes_on.is_err() {
                return;
            }
        }
    }

    async fn forward_to_server(&mut self) -> Result<(), Over> {
        let mut out = Vec::new();
        for frame in self.client.frames() {
            match &mut self.mode {
                Mode::Dead { server: true, .. } => continue,
                Mode::Late(kept) => {
                    kept.extend(frame.bytes);
                    continue;
                }
                _ => {}
            }
            if frame.tag == Tag::Encryption {
                self.server.splitter.expect_answer();
            }
            self.note(&frame);
            if let Some((_, _, frames)) = &mut self.failing {
                let is_whole = frame.ends_statement();
                frames.push(frame);
                if is_whole {
                    self.server.write(&std::mem::take(&mut out)).await?;
                    self.fail().await?;
                }
                continue;
            }
            match self.wire.passes(Direction::ToServer, frame.tag, &self.sql) {
                None => out.extend(frame.bytes),
                Some(cut) => {
                    self.server.write(&std::mem::take(&mut out)).await?;
                    let arrives = self.cut(cut, Direction::ToServer, &frame).await?;
                    out.extend(if arrives { frame.bytes } else { Vec::new() });
                }
            }
        }
        Ok(self.server.write(&out).await?)
    }

    async fn forward_to_client(&mut self) -> Result<(), Over> {
        let mut out = Vec::new();
        for frame in self.server.frames() {
            if frame.is(b'Z') {
                self.status = frame.bytes[5];
            }
            match &self.mode {
                Mode::Dead { client: true, .. } => continue,
                Mode::LosesAnswer => {
                    if frame.is(b'Z') {
                        self.client.reset();
                        return Err(Over);
                    }
                    continue;
                }
                _ => {}
            }
            if frame.tag == Tag::EncryptionAnswer && frame.bytes != b"N" {
                self.server.splitter.give_up();
                self.client.splitter.give_up();
            }
            match self.wire.passes(Direction::ToClient, frame.tag, &self.sql) {
                None => out.extend(frame.bytes),
                Some(cut) => {
                    self.client.write(&std::mem::take(&mut out)).await?;
                    let arrives = self.cut(cut, Direction::ToClient, &frame).await?;
                    out.extend(if arrives { frame.bytes } else { Vec::new() });
                }
            }
        }
        Ok(self.client.write(&out).await?)
    }

    /// One side has closed.
    async fn ended(&mut self, direction: Direction) -> Result<(), Over> {
        match (&mut self.mode, direction) {
            (Mode::Late(kept), Direction::ToServer) => {
                let kept = std::mem::take(kept);
                self.client.stream = None;
                self.mode = Mode::Dead {
                    server: false,
                    client: true,
                };
                self.server.write(&kept).await?;
                self.answer().await?;
                self.wire.landed_late();
                Err(Over)
            }
            (Mode::Dead { server: true, .. }, Direction::ToServer) => {
                self.client.stream = None;
                self.unless_alone()
            }
            (Mode::Dead { client: true, .. }, Direction::ToClient) => {
                self.server.stream = None;
                self.unless_alone()
            }
            _ => Err(Over),
        }
    }

    fn unless_alone(&self) -> Result<(), Over> {
        match self.client.stream.is_none() && self.server.stream.is_none() {
            true => Err(Over),
            false => Ok(()),
        }
    }

    /// Whether the message arrives all the same.
    async fn cut(&mut self, cut: Cut, direction: Direction, frame: &Frame) -> Result<bool, Over> {
        let is_for_server = direction == Direction::ToServer;
        self.dead_since = Some(Instant::now());
        match cut {
            Cut::Reset => {
                self.client.reset();
                self.server.reset();
                return Err(Over);
            }
            Cut::Finish => return Err(Over),
            Cut::Delay => {
                self.dead_since = None;
                tokio::time::sleep(DELAY).await;
                return Ok(true);
            }
            Cut::LoseAnswer => {
                self.mode = Mode::LosesAnswer;
                if frame.is(b'Z') {
                    self.client.reset();
                    return Err(Over);
                }
                return Ok(is_for_server);
            }
            Cut::DeafServer => {
                self.mode = Mode::Dead {
                    server: true,
                    client: false,
                };
                return Ok(!is_for_server);
            }
            Cut::DeafClient => {
                self.mode = Mode::Dead {
                    server: false,
                    client: true,
                };
                return Ok(is_for_server);
            }
            Cut::Late => {
                let kept = if is_for_server { &frame.bytes[..] } else { &[] };
                self.mode = Mode::Late(kept.to_vec());
                return Ok(!is_for_server);
            }
            Cut::Silence => {}
            Cut::ServerGone => self.server.reset(),
            Cut::ClientGone => self.client.reset(),
        }
        self.mode = Mode::Dead {
            server: true,
            client: true,
        };
        Ok(false)
    }

    /// Which statement this message of the client is of, and whether that is to fail.
    fn note(&mut self, frame: &Frame) {
        let Tag::Typed(letter) = frame.tag else {
            return;
        };
        let (first, second) = frame.strings();
        match letter {
            b'P' => {
                self.sql.clone_from(&second);
                self.texts.insert(first, second);
            }
            b'B' => self.sql = self.texts.get(&second).cloned().unwrap_or_default(),
            b'Q' => self.sql = first,
            // Whether the server still answers, or that a statement is not needed any more.
            b'C' | b'S' if !self.is_within_statement => self.sql.clear(),
            b'D' | b'E' | b'C' | b'S' => {}
            _ => return,
        }
        if !self.is_within_statement {
            let failing = self.wire.begins(&self.sql);
            self.failing = failing.map(|(code, when)| (code, when, Vec::new()));
        }
        self.is_within_statement = !frame.ends_statement();
    }

    /// Has the server fail the statement that has come.
    async fn fail(&mut self) -> Result<(), Over> {
        let Some((code, when, frames)) = self.failing.take() else {
            return Ok(());
        };
        let bytes: Vec<u8> = frames.into_iter().flat_map(|frame| frame.bytes).collect();
        if ["57P", "08"].iter().any(|class| code.starts_with(class)) {
            if when == When::After {
                self.server.write(&bytes).await?;
                self.answer().await?;
            }
            self.client.write(&Frame::fatal(code).bytes).await?;
            return Err(Over);
        }
        let was_idle = self.status == b'I';
        let is_commit = self.sql.trim().eq_ignore_ascii_case("commit");
        let mut answer = Vec::new();
        if is_commit {
            // One that fails ends the transaction.
            self.ask("ROLLBACK").await?;
        } else if when == When::After {
            if was_idle {
                self.ask("BEGIN").await?;
            }
            self.server.write(&bytes).await?;
            answer = self.answer().await?;
        }
        // It may have failed by itself.
        if !answer.iter().any(|frame| frame.is(b'E')) {
            let raise = format!(
                "DO $$ BEGIN RAISE EXCEPTION 'as it was told' USING ERRCODE = '{code}'; END $$"
            );
            answer = self.ask(&raise).await?;
        }
        if was_idle && when == When::After && !is_commit {
            self.ask("ROLLBACK").await?;
            answer.pop();
            answer.push(Frame::ready());
        }
        let bytes: Vec<u8> = answer.into_iter().flat_map(|frame| frame.bytes).collect();
        Ok(self.client.write(&bytes).await?)
    }

    async fn ask(&mut self, sql: &str) -> Result<Vec<Frame>, Over> {
        self.server.write(&Frame::query(sql).bytes).await?;
        self.answer().await
    }

    /// What the server says until it waits for the next statement, which is not for the client.
    async fn answer(&mut self) -> Result<Vec<Frame>, Over> {
        let mut heals = self.wire.heals.subscribe();
        let mut answer = Vec::new();
        loop {
            for frame in self.server.frames() {
                let is_last = frame.is(b'Z');
                if is_last {
                    self.status = frame.bytes[5];
                }
                answer.push(frame);
                if is_last {
                    return Ok(answer);
                }
            }
            tokio::select! {
                came = self.server.read() => if !came { return Err(Over) },
                _ = heals.changed() => return Err(Over),
            }
        }
    }
}

async fn forgotten(dead_since: Option<Instant>) {
    match dead_since {
        Some(since) => sleep_until(since + KEEPALIVE).await,
        None => pending().await,
    }
}
