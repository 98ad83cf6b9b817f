//! Messages that cannot be done: moved to a stream of their own, with where they come from.

use std::time::SystemTime;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::appender::{Chain, Submission};
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

/// The stream for the dead letters of a group, unless the consumer says otherwise. `None` if that
/// name would be too long.
pub(crate) fn default_stream(stream: &Name, group: &Name) -> Option<Name> {
    Name::new(format!("{stream}.{group}.dead")).ok()
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
    let (answer, receiver) = oneshot::channel();
    let submission = Submission {
        stream: to.clone(),
        batch,
        atomic: true,
        chain: Chain::new(),
        answer,
    };
    // The runtime that polls, or that of the consumer where there is none.
    let runtime = Handle::try_current().unwrap_or_else(|_| session.runtime().clone());
    session.flow().appender().submit(submission, &runtime);
    match receiver.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(unsent)) => Err(unsent.into_parts()),
        Err(_) => Err((
            Error::closed("the runtime that appends ran on has ended"),
            Batch::default(),
        )),
    }
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
}
