//! What somebody with the rights to do so may leave in the tables: the calls that meet it say so with
//! an error of its own kind or do the right thing, nothing is skipped without a word, nothing hangs or
//! panics, and the same process goes on working with other streams.

use std::time::{Duration, SystemTime};

use flowstream::{Error, ErrorKind, Flowstream, Message, Start};
use tokio::time::timeout;

use crate::postgres_support::Cluster;
use crate::rows::Wanted::{Gone, Told, Works};
use crate::rows::{OTHERS, batches, ends};
use crate::{assert_no_panics, open, watch_panics};

/// What is so long under way hangs.
const BOUND: Duration = Duration::from_secs(600);
/// A consumer that has said nothing for so long has nothing to say.
const QUIET: Duration = Duration::from_millis(300);

/// And nothing, where nobody was told why, after so many of these.
const LONG_QUIET: u32 = 30;
/// Each stream has so many messages, in batches of two, and a group `g` at its start.
const MESSAGES: u64 = 8;

struct Scene {
    cluster: Cluster,
    database: String,
    flow: Flowstream,
    /// What came of it.
    told: Vec<(&'static str, Error)>,
    /// What came instead of what.
    skips: Vec<(u64, u64)>,
}

impl Scene {
    async fn new() -> Self {
        watch_panics();
        let cluster = Cluster::start_new();
        let database = cluster.database();
        let flow = open(&cluster.url(&database)).await;
        let told = Vec::new();
        Self {
            cluster,
            database,
            flow,
            told,
            skips: Vec::new(),
        }
    }

    fn sql(&self, sql: &str) {
        let sql = format!("SET search_path = flowstream, public; {sql}");
        self.cluster.psql(&self.database, &sql);
    }

    async fn make(&self, stream: &str) {
        let mut producer = self.flow.producer(stream).await.expect("a producer");
        for first in (0..MESSAGES).step_by(2) {
            let pair = [first, first + 1].map(|number| Message::new(number.to_string()));
            producer.append(pair).await.expect("it is written");
        }
        self.flow
            .consumer(stream, "g")
            .await
            .expect("a group")
            .control()
            .shutdown()
            .await;
    }

    /// Keeps the error, if it is one.
    fn hear<T>(&mut self, call: &'static str, answer: Result<T, impl Into<Error>>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error.into(),
        };
        self.told.push((call, error));
        None
    }

    /// Everything that can be asked of a stream.
    async fn besiege(&mut self, stream: &str) {
        let flow = self.flow.clone();
        let read = flow.read(stream, 0, 0).await;
        if let Some(page) = self.hear("read", read) {
            let offsets: Vec<u64> = page.iter().map(|(offset, _)| *offset).collect();
            if let Some(gap) = offsets.windows(2).find(|pair| pair[1] != pair[0] + 1) {
                self.skips.push((gap[0] + 1, gap[1]));
            }
        }
        let answer = flow.bounds(stream).await;
        self.hear("stream", answer);
        let answer = flow.group(stream, "g").await;
        self.hear("group", answer);
        let answer = flow.groups(stream).await;
        self.hear("groups", answer);
        self.consume(stream, "g").await;
        let answer = flow
            .consumer(stream, "since")
            .start(Start::Time(SystemTime::UNIX_EPOCH))
            .await;
        self.hear("a group since", answer.map(drop));
        if let Some(mut producer) = {
            let answer = flow.producer(stream).await;
            self.hear("producer", answer)
        } {
            let answer = producer.append(Message::new("more")).await;
            self.hear("append", answer);
        }
        let answer = flow.trim(stream, 0, 4).await;
        self.hear("trim", answer);
        let answer = flow.reset(stream, "g", Start::Earliest).force().await;
        self.hear("reset", answer);
        let answer = flow.evict(stream, "g").await;
        self.hear("evict", answer);
    }

    /// What comes is the next, or somebody said that it is not.
    async fn consume(&mut self, stream: &str, group: &str) {
        let answer = self
            .flow
            .consumer(stream, group)
            .lease(Duration::from_secs(1))
            .await;
        let Some(mut consumer) = self.hear("consumer", answer) else {
            return;
        };
        let (mut next, mut told, mut quiet) = (0, 0, 0);
        loop {
            let Ok(event) = timeout(QUIET, consumer.next()).await else {
                // A slow machine takes its time where something has to come.
                quiet += 1;
                if !self.told.is_empty() || next >= MESSAGES || quiet >= LONG_QUIET {
                    break;
                }
                continue;
            };
            match event.expect("it was not shut down") {
                Ok(delivery) => {
                    let offset = delivery.offset();
                    if offset < next || offset > next && told == 0 {
                        self.skips.push((next, offset));
                    }
                    next = offset + 1;
                    if offset % 4 == 3 {
                        let answer = delivery.dead_letter("it is there").await;
                        self.hear("dead letter", answer);
                    } else {
                        let answer = delivery.commit().await;
                        self.hear("commit", answer);
                    }
                }
                Err(error) => {
                    self.hear("consumer", Err::<(), _>(error));
                    told += 1;
                    if told > 3 {
                        break;
                    }
                }
            }
        }
        consumer.control().shutdown().await;
    }

    /// The process goes on.
    async fn goes_on(&self) {
        let mut producer = self.flow.producer("well").await.expect("a producer");
        let sent = producer
            .append(Message::new("x"))
            .await
            .expect("it is written");
        let mut consumer = self.flow.consumer("well", "g").await.expect("a consumer");
        let delivery = consumer
            .next()
            .await
            .expect("it was not shut down")
            .expect("a delivery");
        assert_eq!(delivery.offset(), sent.offsets()[0].offsets.start);
        delivery.commit().await.expect("it is committed");
        consumer.control().shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_somebody_leaves_in_the_tables_is_told_and_hurts_nothing_else() {
    let mut scene = Scene::new().await;
    scene.flow.create_stream("well", 1).await.unwrap();
    let batches = batches().into_iter().map(|(set, at, wanted)| {
        let of = format!("WHERE stream_id = $S AND base_offset = {at}");
        (format!("UPDATE batches SET {set} {of}"), wanted)
    });
    let others = OTHERS
        .iter()
        .map(|(sql, wanted)| ((*sql).to_owned(), *wanted));
    let (mut wrong, mut count) = (Vec::new(), 0);
    for (number, (damage, wanted)) in batches.chain(others).enumerate() {
        let stream = format!("damage-{number}");
        scene.make(&stream).await;
        let id = format!("(SELECT stream_id FROM streams WHERE name = '{stream}')");
        let group = format!("(SELECT group_id FROM leases WHERE stream_id = {id} AND name = 'g')");
        scene.sql(&damage.replace("$G", &group).replace("$S", &id));
        scene.told.clear();
        scene.skips.clear();
        let besieged = timeout(BOUND, scene.besiege(&stream)).await;
        assert!(besieged.is_ok(), "it hangs: {damage}");
        let kinds: Vec<ErrorKind> = scene.told.iter().map(|(_, error)| error.kind()).collect();
        let may = [ErrorKind::Data, ErrorKind::NotFound, ErrorKind::OutOfRange];
        let is_right = match wanted {
            Told => kinds.contains(&ErrorKind::Data),
            Gone => kinds.contains(&ErrorKind::NotFound),
            Works => kinds.is_empty(),
        };
        let is_right = is_right
            && scene.skips.is_empty()
            && kinds.iter().all(|kind| may.contains(kind))
            && scene.told.iter().all(|(_, error)| !error.in_doubt());
        if !is_right {
            wrong.push(format!(
                "{damage}: {wanted:?}, but {:?}, skips {:?}",
                scene.told, scene.skips
            ));
        }
        let went_on = timeout(BOUND, scene.goes_on()).await;
        assert!(went_on.is_ok(), "after: {damage}");
        count += 1;
    }
    crate::report::Report::of("hostile input")
        .count("bad inputs", count)
        .count("rows damaged by hand", count)
        .write();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_no_panics();
}

/// What has to be readable is, by people.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_view_takes_every_time() {
    let scene = Scene::new().await;
    scene.make("times").await;
    let stamp = |micros: &str| {
        format!(
            "attribute_ends = {}, attributes = '\\x02{micros}'::bytea",
            ends(&[9, 9])
        )
    };
    for (at, set) in [
        (0, "appended_at = 'infinity'".to_owned()),
        (
            2,
            format!("appended_at = '-infinity', {}", stamp("0000000000000080")),
        ),
        (
            4,
            format!(
                "appended_at = '294276-12-31 23:59:59.999999+00', {}",
                stamp("ffffffffffffff7f")
            ),
        ),
        (6, stamp("0100000000000000")),
    ] {
        scene.sql(&format!(
            "UPDATE batches SET {set} WHERE base_offset = {at}"
        ));
    }
    let zone = format!("ALTER DATABASE {} SET timezone = 'UTC'", scene.database);
    scene.cluster.psql(&scene.database, &zone);
    let stamps = "SELECT \"offset\", \"timestamp\" FROM flowstream.messages WHERE \"timestamp\" IS NOT NULL ORDER BY 1";
    let expected =
        "2|-infinity\n4|294247-01-10 04:00:54.775807+00\n6|1970-01-01 00:00:00.000001+00";
    assert_eq!(scene.cluster.psql(&scene.database, stamps).trim(), expected);
    let tail = "SELECT count(*), count(\"timestamp\") FROM flowstream.tail('times')";
    assert_eq!(scene.cluster.psql(&scene.database, tail).trim(), "8|3");
}

/// Whatever somebody writes to the channel, messages come, in order, and nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_strangers_notify_nobody_is_led_astray() {
    let scene = Scene::new().await;
    scene.make("orders").await;
    let elsewhere = open(&scene.cluster.url(&scene.database)).await;
    let mut consumer = scene.flow.consumer("orders", "g").await.unwrap();
    let mut producer = elsewhere.producer("orders").await.unwrap();
    let payloads = [
        "''",
        "' '",
        "'     '",
        "repeat('x', 7999)",
        "repeat(' ', 7999)",
        "E'\\x01\\x02\\x7f\\u00ff'",
        "'x a 0 18446744073709551615 orders'",
        "'x a 0 9223372036854775807 orders'",
        "'x a 0 -1 orders'",
        "'x a -1 5 orders'",
        "'x a 4294967295 5 orders'",
        "'x a 0 0 orders'",
        "'x r 0 0 orders'",
        "'x z 0 5 orders'",
        "'x a 0 5 ' || repeat('n', 7000)",
        "'x a 0 5 nobody''s'",
        "'x a 99999999999999999999 5 orders'",
        "NULL",
    ];
    let mut next = 0;
    for (number, payload) in payloads.iter().enumerate() {
        // A flood: those of one transaction that are equal are one.
        let notify = format!(
            "SELECT pg_notify('flowstream', {payload}); \
             SELECT pg_notify('flowstream', 'x a 0 ' || n || ' orders') FROM generate_series(1, 1000) n"
        );
        scene.sql(&notify);
        producer
            .append(Message::new(format!("after {number}")))
            .await
            .unwrap();
        while next < MESSAGES + number as u64 + 1 {
            let came = timeout(BOUND, consumer.next()).await.expect("it hangs");
            let delivery = came.expect("it was not shut down").expect("no error");
            assert_eq!(delivery.offset(), next);
            delivery.commit().await.unwrap();
            next += 1;
        }
    }
    assert!(
        timeout(QUIET, consumer.next()).await.is_err(),
        "there is nothing more"
    );
    crate::report::Report::of("hostile input")
        .count("bad inputs", payloads.len())
        .write();
    assert_no_panics();
}

/// Longer than a server can count.
#[tokio::test]
async fn a_timeout_may_be_as_long_as_it_likes() {
    use flowstream::Options;
    use flowstream::storage::PostgresOptions;
    let scene = Scene::new().await;
    for timeout in [Duration::MAX, Duration::from_millis(1 << 31)] {
        for is_pooled in [false, true] {
            let options = PostgresOptions::new()
                .statement_timeout(timeout)
                .pooled(is_pooled);
            let options = Options::new().postgres(options);
            let opened = options.open(&scene.cluster.url(&scene.database)).await;
            let flow = opened.unwrap_or_else(|error| panic!("{timeout:?}: {error:?}"));
            flow.create_stream("orders", 1).await.unwrap();
            flow.close().await.unwrap();
        }
    }
}
