//! NATS JetStream, one server, with an fsync before each answer where the version has that.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::BATCH;
use crate::nats::{Came, Nats};
use crate::private::{Private, command, find, version};
use crate::sides::{Rival, Rivals, median_delivery, per_second, rate};
use crate::support::{Place, SIZE};

const BODY: [u8; SIZE] = [b'x'; SIZE];

/// Few: with an fsync for each message it takes a while to write them.
const BATCHES: usize = 50;

pub(crate) fn start() -> Result<Rivals<'static>, String> {
    let program = find("FLOWSTREAM_NATS_SERVER", "nats-server")?;
    let version = version(&program)?;
    let place = Place::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let port = address.port();
    drop(listener);
    let is_synced = is_at_least(&version, [2, 10]);
    let sync = if is_synced {
        "sync_interval: always"
    } else {
        ""
    };
    let settings = format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: \"{}\"\n  {sync}\n}}\n",
        place.file("jetstream").display()
    );
    let file = place.file("nats.conf");
    std::fs::write(&file, settings).map_err(|error| error.to_string())?;
    let mut command = command(&program);
    command.arg("-c").arg(&file);
    let (server, connection) = Private::start(&mut command, &place.file("nats.log"), || {
        Nats::connect(port, "start")
    })?;
    drop(connection);
    let server = Rc::new(Server {
        _server: server,
        port,
        is_synced,
        version,
        _place: place,
    });
    let has_batches = is_at_least(&server.version, [2, 12]);
    let ways = [false, true].into_iter();
    let ways = ways.filter(|is_atomic| has_batches || !is_atomic);
    Ok(ways.map(|way| JetStream::new(&server, way)).collect())
}

fn is_at_least(version: &str, least: [u32; 2]) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 2].map(|()| parts.next().unwrap_or(0)) >= least
}

/// The server, as long as somebody uses it.
struct Server {
    _server: Private,
    port: u16,
    is_synced: bool,
    version: String,
    _place: Place,
}

struct JetStream {
    connection: Nats,
    server: Rc<Server>,
    /// Whether a batch is one atomic batch.
    is_atomic: bool,
    prefix: &'static str,
    batches: usize,
    groups: usize,
}

impl JetStream {
    #[allow(clippy::new_ret_no_self, reason = "one of several rivals")]
    fn new(server: &Rc<Server>, is_atomic: bool) -> Box<dyn Rival> {
        let prefix = if is_atomic { "atomic" } else { "plain" };
        let mut connection = Nats::connect(server.port, prefix).expect("a connection");
        for stream in ["produce", "consume", "delivery"] {
            let name = format!("{prefix}-{stream}");
            let more = if is_atomic {
                ",\"allow_atomic\":true"
            } else {
                ""
            };
            let settings = format!(
                "{{\"name\":\"{name}\",\"subjects\":[\"{name}\"],\"storage\":\"file\",\
                 \"retention\":\"limits\",\"num_replicas\":1{more}}}"
            );
            let subject = format!("$JS.API.STREAM.CREATE.{name}");
            good(&connection.ask(&subject, settings.as_bytes()));
        }
        Box::new(Self {
            connection,
            server: server.clone(),
            is_atomic,
            prefix,
            batches: 0,
            groups: 0,
        })
    }

    /// Sends a batch, and waits until all of it is acknowledged.
    fn send(&mut self, stream: &str) {
        let subject = format!("{}-{stream}", self.prefix);
        let nats = &mut self.connection;
        let mut answers = 0;
        self.batches += 1;
        let id = self.batches.to_string();
        for number in 1..=BATCH {
            if !self.is_atomic {
                nats.push(&subject, true, &BODY);
                answers += 1;
                continue;
            }
            let (is_first, is_last) = (number == 1, number == BATCH);
            let number = number.to_string();
            let mut headers = vec![("Nats-Batch-Id", &*id), ("Nats-Batch-Sequence", &*number)];
            if is_last {
                headers.push(("Nats-Batch-Commit", "1"));
            }
            nats.push_with(&subject, is_first || is_last, &headers, &BODY);
            answers += usize::from(is_first || is_last);
        }
        nats.send().expect("a server that reads");
        (0..answers).for_each(|_| good(&nats.next()));
    }

    fn consumer(&mut self, stream: &str, policy: &str) -> String {
        self.groups += 1;
        let (stream, name) = (format!("{}-{stream}", self.prefix), self.groups);
        let settings = format!(
            "{{\"stream_name\":\"{stream}\",\"config\":{{\"durable_name\":\"g{name}\",\
             \"ack_policy\":\"all\",\"deliver_policy\":\"{policy}\",\"max_ack_pending\":100000}}}}"
        );
        let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.g{name}");
        good(&self.connection.ask(&subject, settings.as_bytes()));
        format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.g{name}")
    }
}

fn good(came: &Came) {
    let said = String::from_utf8_lossy(&came.payload);
    let is_good = came.status.is_none() && !said.contains("\"error\"");
    assert!(is_good, "{:?} {said}", came.status);
}

impl Rival for JetStream {
    fn name(&self) -> &'static str {
        match (self.is_atomic, self.server.is_synced) {
            (true, _) => "NATS JetStream, batch",
            (false, true) => "NATS JetStream",
            (false, false) => "NATS JetStream, no fsync",
        }
    }

    fn what(&self) -> String {
        let durable = match self.server.is_synced {
            true => "sync_interval always",
            false => "NO fsync before it answers (this version cannot)",
        };
        format!("{}, one server, {durable}", self.server.version)
    }

    fn produce(&mut self, window: Duration) -> f64 {
        let rate = rate(window, || self.send("produce"));
        let purge = format!("$JS.API.STREAM.PURGE.{}-produce", self.prefix);
        good(&self.connection.ask(&purge, b""));
        rate
    }

    fn consumes(&self) -> bool {
        !self.is_atomic
    }

    fn consume(&mut self, part: usize) -> f64 {
        let batches = BATCHES / part;
        if self.groups == 0 {
            (0..batches).for_each(|_| self.send("consume"));
        }
        let next = self.consumer("consume", "all");
        let nats = &mut self.connection;
        let pull = format!("{{\"batch\":{BATCH},\"expires\":10000000000}}");
        let began = Instant::now();
        // The next messages are under way while these are worked on.
        nats.push(&next, true, pull.as_bytes());
        for batch in 1..=batches {
            if batch < batches {
                nats.push(&next, true, pull.as_bytes());
            }
            nats.send().expect("a server that reads");
            let mut last = String::new();
            for _ in 0..BATCH {
                let came = message(nats);
                assert_eq!(came.payload.len(), SIZE);
                last = came.reply;
            }
            // What the server says to that comes among the messages, so nobody waits for it.
            nats.push(&last, false, b"+ACK");
        }
        nats.send().expect("a server that reads");
        per_second(batches, began)
    }

    fn delivers(&self) -> bool {
        !self.is_atomic
    }

    fn delivery(&mut self, count: usize) -> f64 {
        let next = self.consumer("delivery", "new");
        let (seen, arrivals) = mpsc::channel();
        let port = self.server.port;
        let receiving = std::thread::spawn(move || {
            let mut nats = Nats::connect(port, "receives").expect("a connection");
            for _ in 0..count {
                let pull = b"{\"batch\":1,\"expires\":10000000000}";
                let came = nats.ask(&next, pull);
                assert_eq!(came.payload.len(), SIZE, "{came:?}");
                seen.send(Instant::now()).expect("somebody who waits");
                nats.push(&came.reply, false, b"+ACK");
            }
            nats.send().expect("a server that reads");
        });
        let subject = format!("{}-delivery", self.prefix);
        let nats = &mut self.connection;
        let median = median_delivery(count, &arrivals, || good(&nats.ask(&subject, &BODY)));
        receiving.join().expect("it received all");
        median
    }
}

/// The next that is no word of the server about a pull.
fn message(nats: &mut Nats) -> Came {
    loop {
        let came = nats.next();
        if came.status.is_none() {
            return came;
        }
    }
}
