//! Everything that an application can call, with whatever values, and a model of what must be there.

use std::collections::BTreeMap;
use std::fmt;

use flowstream::{AppendError, Error, ErrorKind, Flowstream, Message, Name, Result, Start};

use crate::support::Random;
use crate::values::*;

/// What became of the values.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Count {
    pub(crate) tried: u64,
    pub(crate) refused: u64,
    pub(crate) accepted: u64,
}

impl Count {
    pub(crate) fn report(self) {
        crate::report::Report::of("hostile input")
            .count("bad inputs", self.tried)
            .count("of those, refused", self.refused)
            .count("of those, taken and read back", self.accepted)
            .write();
    }
}

pub(crate) struct Siege {
    flow: Flowstream,
    random: Random,
    /// What was accepted, by stream and partition.
    logs: BTreeMap<String, Vec<Vec<Message>>>,
    /// How many streams it makes at most.
    streams: usize,
    pub(crate) count: Count,
}

impl Siege {
    /// The storage must be new, and refuse messages over [`LIMIT`].
    pub(crate) fn new(flow: Flowstream, seed: u64, streams: usize) -> Self {
        Self {
            flow,
            random: Random::new(seed),
            logs: BTreeMap::new(),
            streams,
            count: Count::default(),
        }
    }

    /// Goes on until so many values were tried.
    pub(crate) async fn run(&mut self, until: u64) {
        self.flow.create_stream("known", 1).await.unwrap();
        self.flow.consumer("known", "group").await.unwrap();
        self.logs.insert("known".to_owned(), vec![Vec::new()]);
        while self.count.tried < until {
            match self.random.below(12) {
                0..=4 => self.name().await,
                5 | 6 => self.append().await,
                7 => self.send().await,
                8..=10 => self.place().await,
                _ => self.partitions().await,
            }
        }
        self.compare().await;
    }

    fn refused(&mut self, error: &Error, kinds: &[ErrorKind]) {
        assert!(kinds.contains(&error.kind()), "{error:?}");
        assert!(!error.in_doubt(), "{error:?}");
        assert!(error.to_string().len() < 2000, "{error}");
        self.count.refused += 1;
    }

    /// A name of a stream or group, in one of all the places that take one.
    async fn name(&mut self) {
        let name = text(&mut self.random);
        self.count.tried += 1;
        let is_good = is_name(&name);
        assert_eq!(Name::new(&name).is_ok(), is_good, "{name:?}");
        if is_good && !self.logs.contains_key(&name) && self.logs.len() < self.streams {
            self.flow.create_stream(&name, 1).await.unwrap();
            self.logs.insert(name.clone(), vec![Vec::new()]);
        }
        if is_good && self.logs.contains_key(&name) {
            self.count.accepted += 1;
            let bounds = self.flow.bounds(&name).await.unwrap();
            assert_eq!(bounds.len(), self.logs[&name].len());
            return;
        }
        let (flow, place) = (self.flow.clone(), self.random.below(16));
        // Those that would make what is not there.
        let answer = match place {
            0 if !is_good => flow.producer(&name).await.map(drop),
            1 if !is_good => flow.consumer(&name, "group").await.map(drop),
            2 if !is_good => flow.consumer("known", &name).await.map(drop),
            3 if !is_good => flow.create_stream(&name, 1).await,
            4 if !is_good => {
                let dead = flow.consumer("known", "group").dead_letters(&name);
                dead.await.map(drop)
            }
            5 if !is_good => Message::new("").with_stream(&name).map(drop),
            6 => flow.group(&name, "group").await.map(drop),
            7 => flow.group("known", &name).await.map(drop),
            8 => flow.read(&name, 0, 0).await.map(drop),
            9 => flow.trim(&name, 0, u64::MAX).await.map(drop),
            10 => flow.evict(&name, "group").await,
            11 => flow.evict("known", &name).await,
            12 => flow.reset(&name, "group", Start::Latest).await.map(drop),
            13 => flow
                .reset("known", &name, Start::Latest)
                .force()
                .await
                .map(drop),
            14 if !is_good => flow.groups(&*name).await.map(drop),
            _ => flow.bounds(&name).await.map(drop),
        };
        let kind = match is_good {
            true => ErrorKind::NotFound,
            false => ErrorKind::Invalid,
        };
        let error = answer.expect_err(&name);
        self.refused(&error, &[kind]);
    }

    fn some_stream(&mut self) -> String {
        let at = self.random.below(self.logs.len());
        self.logs.keys().nth(at).unwrap().clone()
    }

    /// Messages of any shape in one piece: all, or none.
    async fn append(&mut self) {
        let stream = self.some_stream();
        let mut messages = Vec::new();
        for _ in 0..self.random.below(120) {
            let (message, refused) = message(&mut self.random);
            self.count.tried += 1 + refused;
            self.count.refused += refused;
            // One that is too large would take all others along.
            if message.size() <= LIMIT || self.random.one_in(4) {
                messages.push(message);
            } else {
                let error = self.append_all(&stream, vec![message]).await.unwrap_err();
                self.refused(&error.error, &[ErrorKind::Invalid]);
            }
        }
        let (len, is_good) = (
            messages.len() as u64,
            messages.iter().all(|m| m.size() <= LIMIT),
        );
        match self.append_all(&stream, messages.clone()).await {
            Ok(()) => {
                assert!(is_good);
                self.count.accepted += len;
                self.logs.get_mut(&stream).unwrap()[0].extend(messages);
            }
            Err(AppendError { error, unsent, .. }) => {
                assert!(!is_good, "{error:?}");
                let unsent = unsent.into_messages();
                assert!(std::iter::zip(&messages, &unsent).all(|(a, b)| is_same_now(a, b)));
                assert_eq!(unsent.len(), messages.len());
                self.refused(&error, &[ErrorKind::Invalid]);
                self.count.refused += len - 1;
            }
        }
    }

    async fn append_all(&self, stream: &str, messages: Vec<Message>) -> Result<(), AppendError> {
        let mut producer = self.flow.producer(stream).await.unwrap();
        let len = messages.len() as u64;
        let appended = producer.append(messages).await?;
        let rows = appended.offsets();
        if let [row] = rows {
            let expected = self.logs[stream][0].len() as u64;
            assert_eq!(row.offsets, expected..expected + len);
        } else {
            assert!(rows.is_empty() && len == 0, "{rows:?}");
        }
        Ok(())
    }

    /// As a sink takes them: one that is refused comes back, and the others go their way.
    async fn send(&mut self) {
        use futures::SinkExt;

        let stream = self.some_stream();
        let mut producer = self.flow.producer(&stream).await.unwrap();
        let mut sent = Vec::new();
        for _ in 0..self.random.below(40) {
            let (message, refused) = message(&mut self.random);
            self.count.tried += 1 + refused;
            self.count.refused += refused;
            match producer.feed(message.clone()).await {
                Ok(()) => sent.push(message),
                Err(error) => {
                    assert!(message.size() > LIMIT, "{error:?}");
                    let refused = producer.take_refused().unwrap();
                    assert!(is_same_now(&message, &refused));
                    self.refused(&error, &[ErrorKind::Invalid]);
                }
            }
        }
        SinkExt::<Message>::flush(&mut producer).await.unwrap();
        self.count.accepted += sent.len() as u64;
        self.logs.get_mut(&stream).unwrap()[0].extend(sent);
    }

    /// Offsets, partitions and times that are not there.
    async fn place(&mut self) {
        self.count.tried += 1;
        let stream = self.some_stream();
        let (partition, offset) = match self.random.one_in(3) {
            true => (number(&mut self.random) as u32, 0),
            false => (0, number(&mut self.random)),
        };
        let answer = match self.random.below(4) {
            0 => {
                let start = match self.random.one_in(2) {
                    true => Start::Offset(offset),
                    false => Start::Time(time(&mut self.random)),
                };
                let reset = self.flow.reset("known", "group", start).force();
                match partition {
                    0 => reset.await.map(drop),
                    _ => reset.partition(partition).await.map(drop),
                }
            }
            // Nothing is old enough to be trimmed but by this: it would need a model of batches.
            1 if partition > 0 => self.flow.trim(&stream, partition, offset).await.map(drop),
            _ => self.read(&stream, partition, offset).await,
        };
        match answer {
            Ok(()) => {
                assert_eq!(partition, 0);
                self.count.accepted += 1;
            }
            Err(error) => {
                assert!(partition > 0, "{error:?}");
                self.refused(&error, &[ErrorKind::NotFound]);
            }
        }
    }

    async fn read(&self, stream: &str, partition: u32, from: u64) -> Result<()> {
        let page = self.flow.read(stream, partition, from).await?;
        let log = &self.logs[stream][partition as usize];
        assert_eq!(page.is_empty(), from >= log.len() as u64);
        for (expected, (offset, message)) in (from..u64::MAX).zip(&page) {
            assert_eq!(*offset, expected);
            assert!(
                is_same(&log[expected as usize], message),
                "{stream:?} {offset}"
            );
        }
        Ok(())
    }

    /// Numbers of partitions.
    async fn partitions(&mut self) {
        self.count.tried += 1;
        let wanted = number(&mut self.random) as u32;
        let error = match self.flow.create_stream("known", wanted).await {
            Ok(()) => {
                assert_eq!(wanted, 1);
                self.count.accepted += 1;
                return;
            }
            Err(error) => error,
        };
        self.refused(&error, &[ErrorKind::Invalid]);
    }

    /// All that was accepted is there, and nothing else.
    async fn compare(&self) {
        for (stream, partitions) in &self.logs {
            let bounds = self.flow.bounds(stream).await.unwrap();
            let expected: Vec<_> = partitions.iter().map(|log| 0..log.len() as u64).collect();
            assert_eq!(bounds, expected, "{stream:?}");
            for (partition, log) in (0..).zip(partitions) {
                let mut from = 0;
                while from < log.len() as u64 {
                    self.read(stream, partition, from).await.unwrap();
                    let page = self.flow.read(stream, partition, from).await.unwrap();
                    from = page.last().unwrap().0 + 1;
                }
            }
        }
        let groups = self.flow.groups(None).await.unwrap();
        assert_eq!(groups.len(), 1, "{groups:?}");
    }
}

/// Before it was stored.
fn is_same_now(a: &Message, b: &Message) -> bool {
    (a.body(), a.key(), a.headers(), a.timestamp())
        == (b.body(), b.key(), b.headers(), b.timestamp())
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tried,
            refused,
            accepted,
        } = self;
        write!(
            f,
            "{tried} values tried, {refused} refused, {accepted} accepted and read back"
        )
    }
}
