//! Messages that cannot be done: moved to a stream of their own, with where they come from.

use std::future::poll_fn;
use std::time::SystemTime;

use crate::appender::{Chain, Submission, Unsent};
use crate::clock::to_micros;
use crate::consumer::Session;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::headers::Headers;
use crate::message::{Batch, Message};
use crate::name::Name;

/// All headers of a dead letter begin so.
const PREFIX: &str = "dead-letter-";

/// A reason is cut off there, in bytes.
const MAX_REASON: usize = 4096;

/// What the headers of a dead letter may take, beside the reason.
const MAX_PLACE: usize = 1024;

/// The stream for the dead letters of a group, unless the consumer says otherwise: no two have the same.
/// `None` if that name would be too long.
///
/// The group is what stands behind the last dot but one. Where it has dots itself, their number is at the
/// end, so that (a.b, c) and (a, b.c) are two.
pub(crate) fn default_stream(stream: &Name, group: &Name) -> Option<Name> {
    let dots = group.as_str().matches('.').count();
    let name = match dots {
        0 => format!("{stream}.{group}.dead"),
        dots => format!("{stream}.{group}.dead.{dots}"),
    };
    Name::new(name).ok()
}

/// What the headers of a move take: they are ours, and come on top of what the producer was allowed. Any
/// header of these names counts so, but no more than a move writes.
#[cold]
pub(crate) fn own_bytes(headers: &Headers) -> usize {
    let own = headers.iter().filter(|(name, _)| name.starts_with(PREFIX));
    let bytes: usize = own
        .map(|(name, value)| Headers::encoded_bytes(name, value))
        .sum();
    bytes.min(MAX_REASON + MAX_PLACE)
}

/// Moves a delivery: its message and its commit are written in one transaction.
pub(crate) async fn bury(delivery: Delivery, reason: &str) -> Result<()> {
    let session = delivery.session().clone();
    let Some(to) = session.dead_letters() else {
        let group = &session.lease().group;
        return Err(Error::invalid(format!(
            "{group}: the name of its dead-letter stream would be over {} bytes; say another one \
             with ConsumerBuilder::dead_letters",
            Name::MAX_BYTES
        )));
    };
    let attempts = delivery.attempt();
    let letter = letter(delivery, attempts, reason, to);
    append(&session, to, Batch::from(letter))
        .await
        .map_err(|(error, batch)| error.with_unsent(batch))
}

/// The message of a delivery as a dead letter, in which the commit rides.
pub(crate) fn letter(delivery: Delivery, attempts: u32, reason: &str, to: &Name) -> Message {
    let group = delivery.session().lease().group.clone();
    let now = delivery.session().flow().clock().wall();
    let (message, timestamp, commit) = delivery.into_parts_at();
    let mut headers = Headers::new();
    // One that died before tells where it was last: that message has the rest.
    let kept = message.headers().iter();
    for (name, value) in kept.filter(|(name, _)| !name.starts_with(PREFIX)) {
        headers.put(name, value);
    }
    for (name, value) in [
        ("stream", group.partition.stream.as_str()),
        ("partition", &group.partition.index.to_string()),
        ("offset", &commit.offset().to_string()),
        ("group", group.name.as_str()),
        ("attempts", &attempts.to_string()),
        ("reason", cut(reason)),
        ("time", &millis(now).to_string()),
    ] {
        headers.put(&format!("{PREFIX}{name}"), value.as_bytes());
    }
    let mut letter = message.with_headers(headers).with_timestamp(timestamp);
    letter.send_to(to.clone());
    letter.attach(commit);
    letter
}

/// Writes dead letters, all or none. Those that are not written come back.
pub(crate) async fn append(
    session: &Session,
    to: &Name,
    batch: Batch,
) -> Result<(), (Error, Batch)> {
    let appender = session.flow().appender();
    let deadline = appender.deadline();
    let letters = Submission::unit(to.clone(), batch, Chain::new(), deadline);
    let mut ticket = appender.submit(letters, session.runtime());
    let answer = poll_fn(|cx| appender.poll_unit(&mut ticket, to, session.runtime(), cx)).await;
    answer.map(drop).map_err(Unsent::into_parts)
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON)]
}

fn millis(time: SystemTime) -> i64 {
    to_micros(time) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(MAX_REASON);
        assert_eq!(cut(&long).len(), MAX_REASON);
        let odd = format!("x{long}");
        assert_eq!(cut(&odd).len(), MAX_REASON - 1);
    }

    #[test]
    fn the_default_stream_has_the_names_of_both() {
        let name = |len| Name::new("x".repeat(len)).unwrap();
        let short = default_stream(
            &Name::new("orders").unwrap(),
            &Name::new("billing").unwrap(),
        );
        assert_eq!(short.unwrap().as_str(), "orders.billing.dead");
        assert!(default_stream(&name(124), &name(125)).is_some());
        assert!(default_stream(&name(125), &name(125)).is_none());
    }

    /// Once (a.b, c) and (a, b.c) shared one stream of dead letters.
    #[test]
    fn no_two_groups_have_the_same_default_stream() {
        // All names of up to four letters of these, which can be mistaken for what is added.
        let mut names = vec![String::new()];
        let mut all = Vec::new();
        for _ in 0..4 {
            names = names
                .iter()
                .flat_map(|name| ["a", ".", "1", "dead"].map(|more| format!("{name}{more}")))
                .collect();
            all.extend(names.iter().map(|name| Name::new(name).unwrap()));
        }
        let mut seen = std::collections::HashMap::new();
        for stream in &all {
            for group in &all {
                let to = default_stream(stream, group).unwrap();
                let before = seen.insert(to.clone(), (stream, group));
                assert_eq!(before, None, "{to} for {:?}", (stream, group));
            }
        }
        let of = |stream, group| {
            let to = default_stream(&Name::new(stream).unwrap(), &Name::new(group).unwrap());
            to.unwrap().as_str().to_owned()
        };
        assert_eq!(of("a.b", "c"), "a.b.c.dead");
        assert_eq!(of("a", "b.c"), "a.b.c.dead.1");
    }

    #[test]
    fn what_a_move_adds_is_known_up_to_its_most() {
        let mut headers = Headers::new();
        headers.insert("trace", "x".repeat(100)).unwrap();
        assert_eq!(own_bytes(&headers), 0);
        headers
            .insert("dead-letter-reason", "x".repeat(100))
            .unwrap();
        assert_eq!(own_bytes(&headers), 6 + 18 + 100);
        headers
            .insert("dead-letter-mine", vec![0; 1 << 20])
            .unwrap();
        assert_eq!(own_bytes(&headers), MAX_REASON + MAX_PLACE);
    }
}
