//! Messages that cannot be done: moved to a stream of their own, with where they come from.

use std::time::SystemTime;

use super::Message;
use crate::clock::to_micros;
use crate::name::Name;
use crate::record::Headers;
use crate::session::Commit;

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

/// What the headers of a dead letter tell, besides the place that its commit knows.
pub(crate) struct Death<'a> {
    /// When the message happened.
    pub(crate) timestamp: SystemTime,
    /// How often it was tried.
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
    /// When it is moved.
    pub(crate) now: SystemTime,
}

/// The message of a delivery as a dead letter for this stream, which carries the commit.
pub(crate) fn build(message: Message, commit: Commit, to: &Name, death: &Death<'_>) -> Message {
    let group = commit.session().lease().group.clone();
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
        ("attempts", &death.attempts.to_string()),
        ("reason", cut(death.reason)),
        ("time", &millis(death.now).to_string()),
    ] {
        headers.put(&format!("{PREFIX}{name}"), value.as_bytes());
    }
    let mut letter = message
        .with_headers(headers)
        .with_timestamp(death.timestamp);
    letter.send_to(to.clone());
    letter.attach(commit);
    letter
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
