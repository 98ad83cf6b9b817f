//! One client that does everything once, insists where it fails, and remembers what it was told.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flowstream::storage::{Id, Name, Partition, Storage};
use flowstream::{Batch, Consumer, Error, ErrorKind, Flowstream, Message, Producer, Start};
use futures::SinkExt;
use tokio::time::{sleep, timeout};

use crate::rig::{Bench, Client};

/// What is done, in this order.
pub(crate) const STEPS: [&str; 11] = [
    "open",
    "create streams",
    "append one",
    "append many",
    "sink",
    "look",
    "consume",
    "hear of others",
    "groups and resets",
    "trim",
    "close",
];

/// How many messages the first partition gets before another process appends.
pub(crate) const MESSAGES: u64 = 10;
/// And how many that one appends.
pub(crate) const REMOTE: u64 = 2;
/// What is so long under way is not waited for any more.
pub(crate) const BOUND: Duration = Duration::from_secs(600);
/// A transaction that takes longer is given up by the application.
pub(crate) const TRANSACTION: Duration = Duration::from_secs(4);

/// How a client behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Temper {
    /// It is told of each error, and appends again the batch that it gets back.
    Hasty,
    /// The errors that pass are retried inside.
    Patient,
    /// As hasty, but it appends the messages anew instead of the batch that it gets back: what a
    /// client does that knows nothing of ids. Doubles what is in doubt.
    Forgetful,
}

impl Temper {
    /// The first two take turns.
    pub(crate) fn of_turn(number: usize) -> Self {
        match number % 2 {
            0 => Self::Hasty,
            _ => Self::Patient,
        }
    }
}

/// The names of a run's streams.
pub(crate) struct Names {
    pub(crate) input: String,
    pub(crate) wide: String,
    pub(crate) out: String,
    pub(crate) dead: String,
    pub(crate) short: String,
}

impl Names {
    pub(crate) fn of(run: i32) -> Self {
        let name = |stream| format!("{stream}-{run}");
        Self {
            input: name("in"),
            wide: name("wide"),
            out: name("out"),
            dead: name("dead"),
            short: name("short"),
        }
    }
}

/// What the client was told.
#[derive(Default)]
pub(crate) struct Book {
    /// The bodies that are in the input, in this order.
    pub(crate) input: Vec<String>,
    /// Key and number, to a stream of two partitions.
    pub(crate) wide: Vec<String>,
    /// The input's offsets of which somebody said that they are done.
    pub(crate) committed: BTreeSet<u64>,
    pub(crate) errors: Vec<Told>,
    /// Appends of which nobody knew whether they were written.
    pub(crate) doubts: usize,
    /// Those of them of which it was found out.
    pub(crate) resolved: usize,
}

/// An error, and where it came out.
#[derive(Debug)]
#[allow(dead_code, reason = "all of it is shown when a run goes wrong")]
pub(crate) struct Told {
    pub(crate) step: usize,
    pub(crate) kind: ErrorKind,
    pub(crate) text: String,
    /// A call that has no budget to be repeated in: it opens, asks the storage itself, or belongs to
    /// a transaction of the application.
    pub(crate) is_single: bool,
}

pub(crate) struct Script<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) names: Names,
    pub(crate) book: Book,
    pub(crate) run: i32,
    temper: Temper,
    step: usize,
    pub(crate) client: Option<Client>,
    pub(crate) consumer: Option<Consumer>,
    pub(crate) began: Instant,
}

impl<'a> Script<'a> {
    pub(crate) fn new(bench: &'a Bench, run: i32, temper: Temper) -> Self {
        Self {
            bench,
            names: Names::of(run),
            book: Book::default(),
            run,
            temper,
            step: 0,
            client: None,
            consumer: None,
            began: Instant::now(),
        }
    }

    pub(crate) async fn run(&mut self) {
        for (number, step) in STEPS.into_iter().enumerate() {
            self.step = number;
            self.bench.proxy.set_step(number);
            match step {
                "open" => self.open().await,
                "create streams" => self.create_streams().await,
                "append one" => self.append_one().await,
                "append many" => self.append_many().await,
                "sink" => self.sink().await,
                "look" => self.look().await,
                "consume" => self.consume().await,
                "hear of others" => self.hear_of_others().await,
                "groups and resets" => self.reset().await,
                "trim" => self.trim().await,
                "close" => self.close().await,
                step => unreachable!("{step}"),
            }
        }
    }

    pub(crate) fn flow(&self) -> Flowstream {
        self.client.as_ref().expect("it is open").flow.clone()
    }

    pub(crate) fn told(&mut self, error: &Error, is_single: bool) {
        self.book.errors.push(Told {
            step: self.step,
            kind: error.kind(),
            text: format!("{error:?}"),
            is_single,
        });
        assert!(
            self.began.elapsed() < BOUND,
            "{} goes on for ever: {:?}",
            STEPS[self.step],
            self.book.errors.last()
        );
    }

    /// Calls until it succeeds.
    pub(crate) async fn insist<T>(
        &mut self,
        call: impl AsyncFn(Flowstream) -> flowstream::Result<T>,
    ) -> T {
        loop {
            match call(self.flow()).await {
                Ok(done) => return done,
                Err(error) => self.told(&error, false),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn open(&mut self) {
        let retry_for = match self.temper {
            Temper::Patient => BOUND,
            Temper::Hasty | Temper::Forgetful => Duration::ZERO,
        };
        let storage = loop {
            match self.bench.connect().await {
                Ok(storage) => break storage,
                Err(error) => self.told(&error, true),
            }
        };
        self.client = Some(Client::new(storage, retry_for, self.bench));
    }

    async fn create_streams(&mut self) {
        let (input, wide) = (self.names.input.clone(), self.names.wide.clone());
        self.insist(async |flow| flow.create_stream(&input, 1).await)
            .await;
        self.insist(async |flow| flow.create_stream(&wide, 2).await)
            .await;
    }

    pub(crate) async fn producer(&mut self, stream: &str) -> Producer {
        self.insist(async |flow| flow.producer(stream).batch_messages(2).await)
            .await
    }

    /// Appends until it is there; whether it is. It is not where a commit that rides in it is fenced.
    pub(crate) async fn append(
        &mut self,
        producer: &mut Producer,
        batch: impl Into<Batch>,
    ) -> bool {
        let mut batch = batch.into();
        let mut was_in_doubt = false;
        loop {
            let Err(failed) = producer.append(batch).await else {
                self.book.resolved += usize::from(was_in_doubt);
                return true;
            };
            let error = failed.error;
            self.told(&error, false);
            if error.in_doubt() && !was_in_doubt {
                self.book.doubts += 1;
                was_in_doubt = true;
            }
            if error.is_fenced() {
                return false;
            }
            batch = failed.unsent;
            if self.temper == Temper::Forgetful {
                batch = batch.messages().iter().cloned().collect();
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn append_one(&mut self) {
        let input = self.names.input.clone();
        let mut producer = self.producer(&input).await;
        for body in ["one", "two"] {
            assert!(self.append(&mut producer, Message::new(body)).await);
            self.book.input.push(body.to_owned());
        }
    }

    async fn append_many(&mut self) {
        let (input, wide) = (self.names.input.clone(), self.names.wide.clone());
        let mut producer = self.producer(&input).await;
        let mut batch = vec![Message::new("three"), Message::new("four")];
        for number in 0..6 {
            let (key, body) = (number % 3, format!("{} {number}", number % 3));
            let message = Message::new(body.clone()).with_key(format!("{key}"));
            batch.push(message.with_stream(&wide).expect("a name"));
            self.book.wide.push(body);
        }
        assert!(self.append(&mut producer, batch).await);
        self.book.input.extend(["three", "four"].map(str::to_owned));
    }

    async fn sink(&mut self) {
        let input = self.names.input.clone();
        let mut producer = self.producer(&input).await;
        for number in self.book.input.len() as u64..MESSAGES {
            let body = format!("fed {number}");
            // It is taken even if it tells of an earlier error.
            if let Err(error) = producer.feed(Message::new(body.clone())).await {
                self.told(&error, false);
            }
            self.book.input.push(body);
        }
        while let Err(error) = producer.flush().await {
            self.told(&error, false);
        }
    }

    async fn look(&mut self) {
        let input = self.names.input.clone();
        let page = self.insist(async |flow| flow.read(&input, 0, 0).await);
        assert!(page.await.len() >= MESSAGES as usize);
        let bounds = self.insist(async |flow| flow.bounds(&input).await).await;
        assert!(bounds[0].end >= MESSAGES, "{bounds:?}");
        let partition = Partition {
            stream: Name::new(input).expect("a name"),
            index: 0,
        };
        let id = Id::random();
        loop {
            let storage = self.client.as_ref().expect("it is open").storage.clone();
            match storage.settle(id, std::slice::from_ref(&partition)).await {
                Ok(found) => break assert_eq!(found, None, "nobody appended that"),
                Err(error) => self.told(&error, true),
            }
        }
    }

    async fn reset(&mut self) {
        let input = self.names.input.clone();
        let consumer = self.insist(async |flow| flow.consumer(&input, "h").await);
        drop(consumer.await);
        let reset =
            self.insist(async |flow| flow.reset(&input, "h", Start::Offset(3)).force().await);
        assert_eq!(reset.await[0].position(), 3);
        self.insist(async |flow| flow.evict(&input, "h").await)
            .await;
        let groups = self.insist(async |flow| flow.groups(&*input).await).await;
        let groups: Vec<&str> = groups.iter().map(|info| info.group.name.as_str()).collect();
        assert_eq!(groups, ["g", "h"]);
    }

    async fn trim(&mut self) {
        let short = self.names.short.clone();
        let mut producer = self.producer(&short).await;
        for body in ["gone", "kept"] {
            assert!(self.append(&mut producer, Message::new(body)).await);
        }
        let consumer = self.insist(async |flow| flow.consumer(&short, "g").await);
        let mut consumer = consumer.await;
        // Both at once.
        loop {
            match timeout(BOUND, consumer.next()).await.expect("a delivery") {
                Some(Ok(delivery)) if delivery.offset() == 0 => drop(delivery),
                Some(Ok(delivery)) => {
                    // Where it fails it is recorded, and goes with the next write.
                    self.settle_commit(delivery.commit_through().await);
                    break;
                }
                Some(Err(error)) => self.told(&error, false),
                None => panic!("the consumer ended"),
            }
        }
        let control = consumer.control();
        timeout(BOUND, control.shutdown()).await.expect("it stops");
        let trimmed = self.insist(async |flow| flow.trim(&short, 0, 1).await);
        let start = trimmed.await;
        assert!(start >= 1, "{start}");
    }

    async fn close(&mut self) {
        let Some(client) = self.client.take() else {
            return;
        };
        // Whatever broke: all connections that there may be are good again.
        if self.bench.proxy.seen().fired.is_some() {
            self.bench.proxy.heal();
            self.use_all(&client).await;
        }
        let closing = timeout(BOUND, client.flow.close()).await;
        closing.expect("in time").expect("it closes");
        let _ = timeout(TRANSACTION, client.pool.close()).await;
    }

    /// More calls at once than there are connections.
    async fn use_all(&self, client: &Client) {
        let input = &self.names.input;
        let look = async || {
            let began = Instant::now();
            while let Err(error) = client.flow.bounds(input).await {
                assert!(
                    began.elapsed() < BOUND,
                    "the pool does not recover: {error:?}"
                );
            }
            while let Err(error) = client.flow.group(input, "g").await {
                assert!(
                    began.elapsed() < BOUND,
                    "the pool does not recover: {error:?}"
                );
            }
        };
        futures::future::join_all((0..16).map(|_| look())).await;
    }
}
