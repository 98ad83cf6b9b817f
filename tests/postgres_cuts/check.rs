//! What has to hold after a run, as another process sees it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flowstream::{Flowstream, Message};
use tokio::time::{sleep, timeout};

use crate::rig::{Bench, open_directly};
use crate::script::{Book, Names};

const BOUND: Duration = Duration::from_secs(600);

/// What is wrong, if anything is.
pub(crate) async fn check(
    bench: &Bench,
    run: i32,
    names: &Names,
    book: &Book,
) -> Result<(), String> {
    verify(bench, run, names, book).await?;
    nobody_is_left(bench).await
}

async fn verify(bench: &Bench, run: i32, names: &Names, book: &Book) -> Result<(), String> {
    let flow = &bench.direct;
    let input = bodies(flow, &names.input, 0).await;
    same("the input", &input, &book.input)?;

    let mut wide = Vec::new();
    for partition in 0..2 {
        wide.extend(bodies(flow, &names.wide, partition).await);
    }
    same("by key", &by_key(&wide), &by_key(&book.wide))?;

    let count = book.input.len() as u64;
    let offsets = |rest| (0..count).filter(move |offset| offset % 5 == rest);
    let forwarded = offsets(1).map(|offset| format!("forwarded {offset}"));
    let transacted = offsets(2).map(|offset| format!("transacted {offset}"));
    let expected = sorted(forwarded.chain(transacted).collect());
    let out = output(bench, names, expected.len()).await;
    same("the output", &out, &expected)?;
    let effects = bench.effects(run).await;
    let expected: Vec<i64> = offsets(2).map(|offset| offset as i64).collect();
    same("the effects", &effects, &expected)?;
    let dead = sorted(bodies(flow, &names.dead, 0).await);
    let expected = sorted(offsets(3).map(|at| input[at as usize].clone()).collect());
    same("the dead letters", &dead, &expected)?;

    let group = &flow.group(&names.input, "g").await.map_err(text)?[0];
    same("the position", &[group.position()], &[count])?;
    drains(flow, names, count).await?;
    let reset = &flow.group(&names.input, "h").await.map_err(text)?[0];
    same("the group that was reset", &[reset.position()], &[3])?;
    let bounds = &flow.bounds(&names.short).await.map_err(text)?[0];
    same("what is left", &[bounds.start, bounds.end], &[1, 2])
}

/// All that went out, once there are so many. What transactions appended is moved by whoever opens the
/// storage, where their own process could not.
async fn output(bench: &Bench, names: &Names, count: usize) -> Vec<String> {
    let mut began = Instant::now();
    let mut next = None;
    loop {
        let out = sorted(bodies(&bench.direct, &names.out, 0).await);
        let is_late = began.elapsed() > Duration::from_secs(1);
        if out.len() >= count || began.elapsed() > BOUND {
            return out;
        }
        if is_late && next.is_none() {
            next = Some(open_directly(&bench.database).await);
            began = Instant::now();
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// The group goes on with whoever comes next.
async fn drains(flow: &Flowstream, names: &Names, count: u64) -> Result<(), String> {
    let mut producer = flow.producer(&names.input).await.map_err(text)?;
    producer
        .append(Message::new("the end"))
        .await
        .map_err(text)?;
    let consumer = flow.consumer(&names.input, "g");
    let mut consumer = consumer.lease(Duration::from_secs(3)).await.map_err(text)?;
    let delivery = timeout(BOUND, consumer.next()).await;
    let delivery = delivery.map_err(|_| "the group stands still".to_owned())?;
    let delivery = delivery.ok_or("the consumer ended")?.map_err(text)?;
    same("what comes next", &[delivery.offset()], &[count])?;
    delivery.commit().await.map_err(text)?;
    consumer.control().shutdown().await;
    Ok(())
}

/// No session stays, and none was left within a transaction.
async fn nobody_is_left(bench: &Bench) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let (sessions, idle) = bench.sessions().await;
        if sessions == 0 {
            return Ok(());
        }
        if began.elapsed() > BOUND {
            return Err(format!(
                "{sessions} sessions are left, {idle} in a transaction"
            ));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

async fn bodies(flow: &Flowstream, stream: &str, partition: u32) -> Vec<String> {
    // One that was never needed is not there.
    let Ok(page) = flow.read(stream, partition, 0).await else {
        return Vec::new();
    };
    let body = |(_, message): &(u64, Message)| String::from_utf8(message.body().to_vec()).unwrap();
    page.iter().map(body).collect()
}

/// The numbers of each key, in their order.
fn by_key(bodies: &[String]) -> Vec<(String, Vec<String>)> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for body in bodies {
        let (key, number) = body.split_once(' ').unwrap();
        keys.entry(key.to_owned())
            .or_default()
            .push(number.to_owned());
    }
    keys.into_iter().collect()
}

fn sorted(mut bodies: Vec<String>) -> Vec<String> {
    bodies.sort();
    bodies
}

fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &[T],
    expected: &[T],
) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} instead of {expected:?}")),
    }
}

fn text(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}
