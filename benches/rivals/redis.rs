//! Redis Streams, with an fsync before each answer.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::BATCH;
use crate::private::{Private, command, find, version};
use crate::resp::Resp;
use crate::sides::{Rival, Rivals, median_delivery, per_second, rate};
use crate::support::{Place, SIZE};
use crate::table::Bar;

const BATCHES: usize = 200;

const BODY: [u8; SIZE] = [b'x'; SIZE];

pub(crate) fn start() -> Result<Rivals<'static>, String> {
    let program = find("FLOWSTREAM_REDIS_SERVER", "redis-server")?;
    let version = version(&program)?;
    let place = Place::new();
    let socket = place.file("redis.sock");
    let directory = socket.parent().expect("a directory").to_owned();
    let mut command = command(&program);
    command
        .args(["--port", "0", "--save", "", "--daemonize", "no"])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        // To write the file anew is the server's mood, as a checkpoint is.
        .args(["--auto-aof-rewrite-percentage", "0"])
        .arg("--dir")
        .arg(&directory)
        .arg("--unixsocket")
        .arg(&socket);
    let (server, connection) =
        Private::start(&mut command, &place.file("redis.log"), || ping(&socket))?;
    drop(connection);
    let server = Rc::new(Server {
        _server: server,
        socket,
        version,
        _place: place,
    });
    Ok([false, true]
        .map(|is_multi| Redis::new(&server, is_multi))
        .into())
}

fn ping(socket: &Path) -> io::Result<Resp> {
    Resp::connect(socket)
}

/// The server, as long as somebody uses it.
struct Server {
    _server: Private,
    socket: PathBuf,
    version: String,
    _place: Place,
}

struct Redis {
    connection: Resp,
    server: Rc<Server>,
    /// Whether a batch is one transaction.
    is_multi: bool,
    groups: usize,
}

impl Redis {
    #[allow(clippy::new_ret_no_self, reason = "one of several rivals")]
    fn new(server: &Rc<Server>, is_multi: bool) -> Box<dyn Rival> {
        Box::new(Self {
            connection: Resp::connect(&server.socket).expect("a connection"),
            server: server.clone(),
            is_multi,
            groups: 0,
        })
    }

    fn send(&mut self, stream: &[u8]) {
        if self.is_multi {
            self.connection.push(&[b"MULTI"]);
        }
        for _ in 0..BATCH {
            self.connection.push(&[b"XADD", stream, b"*", b"b", &BODY]);
        }
        if self.is_multi {
            self.connection.push(&[b"EXEC"]);
        }
        self.connection.flush();
    }
}

impl Rival for Redis {
    fn name(&self) -> &'static str {
        match self.is_multi {
            true => "Redis Streams, MULTI",
            false => "Redis Streams",
        }
    }

    fn what(&self) -> String {
        format!("{}, appendfsync always", self.server.version)
    }

    fn bar(&self) -> Option<Bar> {
        (!self.is_multi).then_some(Bar::AtLeast(4.0))
    }

    fn produce(&mut self, window: Duration) -> f64 {
        let sent = rate(window, || self.send(b"produce"));
        // Everything is kept in memory.
        self.connection.ask(&[b"DEL", b"produce"]);
        sent
    }

    fn consumes(&self) -> bool {
        !self.is_multi
    }

    fn consume(&mut self, part: usize) -> f64 {
        let batches = BATCHES / part;
        self.groups += 1;
        if self.groups == 1 {
            (0..batches).for_each(|_| self.send(b"consume"));
        }
        let group = format!("g{}", self.groups).into_bytes();
        let connection = &mut self.connection;
        connection.ask(&[b"XGROUP", b"CREATE", b"consume", &group, b"0"]);
        let began = Instant::now();
        for _ in 0..batches {
            let read: [&[u8]; 9] = [
                b"XREADGROUP",
                b"GROUP",
                &group,
                b"c",
                b"COUNT",
                b"1000",
                b"STREAMS",
                b"consume",
                b">",
            ];
            let ids = ids(connection, &read);
            assert_eq!(ids.len(), BATCH);
            acknowledge(connection, b"consume", &group, &ids);
        }
        per_second(batches, began)
    }

    fn delivers(&self) -> bool {
        !self.is_multi
    }

    fn delivery(&mut self, count: usize) -> f64 {
        let (seen, arrivals) = mpsc::channel();
        let connection = &mut self.connection;
        connection.ask(&[b"DEL", b"delivery"]);
        let create: [&[u8]; 6] = [b"XGROUP", b"CREATE", b"delivery", b"g", b"$", b"MKSTREAM"];
        connection.ask(&create);
        let mut other = Resp::connect(&self.server.socket).expect("a connection");
        let receiving = std::thread::spawn(move || {
            let read: [&[u8]; 9] = [
                b"XREADGROUP",
                b"GROUP",
                b"g",
                b"c",
                b"BLOCK",
                b"10000",
                b"STREAMS",
                b"delivery",
                b">",
            ];
            for _ in 0..count {
                let ids = ids(&mut other, &read);
                seen.send(Instant::now()).expect("somebody who waits");
                acknowledge(&mut other, b"delivery", b"g", &ids);
            }
        });
        let median = median_delivery(count, &arrivals, || {
            connection.ask(&[b"XADD", b"delivery", b"*", b"b", &BODY]);
        });
        receiving.join().expect("it received all");
        median
    }
}

/// Reads, bodies and all: the ids.
fn ids(connection: &mut Resp, read: &[&[u8]]) -> Vec<Vec<u8>> {
    let stream = connection.ask(read).list().pop().expect("a stream");
    let entries = stream.list().pop().expect("entries").list();
    let id = |entry: crate::resp::Reply| entry.list().swap_remove(0).text();
    entries.into_iter().map(id).collect()
}

fn acknowledge(connection: &mut Resp, stream: &[u8], group: &[u8], ids: &[Vec<u8>]) {
    let mut words: Vec<&[u8]> = vec![b"XACK", stream, group];
    words.extend(ids.iter().map(Vec::as_slice));
    connection.ask(&words);
}
