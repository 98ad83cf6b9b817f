//! The notifications of the server's channel, as text: what the announcer writes and the listener reads.

use crate::storage::{Id, Name, Notification, Partition};

/// What the notifications of one storage begin with, so that it knows its own: they were told already,
/// within the process.
pub(super) fn new_tag() -> String {
    format!("{:08x}", Id::random().0 as u32)
}

/// Tag, kind, partition, end of the log, stream. `None` for what is not told.
pub(super) fn encode(tag: &str, notification: &Notification) -> Option<String> {
    match notification {
        Notification::Appended(of, end) => {
            Some(format!("{tag} a {} {end} {}", of.index, of.stream))
        }
        Notification::Released(of) => Some(format!("{tag} r {} 0 {}", of.index, of.stream)),
        Notification::Missed => None,
    }
}

/// `None` for what this process told itself, and for what is not understood: anybody may write to
/// the channel.
pub(super) fn decode(tag: &str, text: &str) -> Option<Notification> {
    let mut parts = text.splitn(5, ' ');
    if parts.next()? == tag {
        return None;
    }
    let kind = parts.next()?;
    let index = parts.next()?.parse().ok()?;
    let end = parts.next()?.parse().ok()?;
    let stream = Name::new(parts.next()?).ok()?;
    let partition = Partition { stream, index };
    match kind {
        "a" => Some(Notification::Appended(partition, end)),
        "r" => Some(Notification::Released(partition)),
        _ => None,
    }
}

/// Decodes what a stranger may write to the channel.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(notification) = decode("me", text) {
        let again = encode("you", &notification);
        assert_eq!(
            again.and_then(|text| decode("me", &text)),
            Some(notification)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood_elsewhere() {
        let stream = Name::new("two words").unwrap();
        let partition = Partition { stream, index: 3 };
        for notification in [
            Notification::Appended(partition.clone(), 7),
            Notification::Released(partition),
        ] {
            let text = encode("me", &notification).unwrap();
            assert_eq!(decode("you", &text), Some(notification));
            assert_eq!(decode("me", &text), None);
        }
        for text in [
            "",
            "x",
            "x a",
            "x a 1 2",
            "x a -1 2 s",
            "x z 1 2 s",
            "x a 1 2 \u{1}",
        ] {
            assert_eq!(decode("me", text), None, "{text:?}");
        }
    }
}
