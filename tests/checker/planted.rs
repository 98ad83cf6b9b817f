//! Bugs, each planted into a history that was as promised, where there is room for it.

use std::time::Duration;

use crate::history::{Event, History, Owner, Rule};
use crate::valid::{DEAD, IN, OUT};

/// What is wrong, what has to find it, and how to plant it; `None` where there is no room.
pub(crate) type Bug = (&'static str, Rule, fn(&mut History) -> Option<()>);

pub(crate) const BUGS: &[Bug] = &[
    ("an acknowledged append is swallowed", Rule::Lost, swallow),
    ("the end of the log is lost", Rule::Lost, lose_the_end),
    ("a retry writes once more", Rule::Doubled, write_twice),
    (
        "two of a producer change places",
        Rule::Reordered,
        |history| exchange(history, true),
    ),
    (
        "one stands before what was there first",
        Rule::OutOfTime,
        |history| exchange(history, false),
    ),
    ("half of an append is written", Rule::Torn, tear),
    (
        "a failed append is written",
        Rule::AbortedRead,
        write_what_failed,
    ),
    ("a message appears", Rule::FromNowhere, |history| {
        write(history, IN, 1_000_000);
        Some(())
    }),
    (
        "a message is read before it is sent",
        Rule::FromNowhere,
        send_late,
    ),
    ("an offset is left out", Rule::Gap, leave_an_offset_out),
    (
        "an append tells a wrong offset",
        Rule::WrongPlace,
        tell_a_wrong_place,
    ),
    (
        "a consumer gets another message",
        Rule::WrongPlace,
        deliver_another,
    ),
    ("a reader jumps over a message", Rule::Skipped, skip),
    (
        "a group never gets the last message",
        Rule::Undelivered,
        stop_short,
    ),
    ("a reader goes back and forth", Rule::OutOfOrder, turn_round),
    (
        "what is done comes again",
        Rule::DeliveredAfterCommit,
        come_again,
    ),
    ("a commit is dropped", Rule::LostCommit, drop_a_commit),
    ("a position goes too far", Rule::DoneUnasked, go_too_far),
    ("the fence is ignored", Rule::ZombieCommit, ignore_the_fence),
    ("a position goes back", Rule::PositionBack, go_back),
    (
        "a group falls back to an older epoch",
        Rule::EpochBack,
        fall_back,
    ),
    (
        "a consumer is given its epoch again",
        Rule::EpochBack,
        give_again,
    ),
    (
        "two consumers are given one lease",
        Rule::TwoOwners,
        give_twice,
    ),
    (
        "a commit is refused that is durable",
        Rule::DoneThoughRefused,
        refuse_what_is_durable,
    ),
    ("an answer comes too late", Rule::LateAnswer, |history| {
        history.events.push(Event::Answered {
            message: 1,
            took: Duration::from_secs(2),
            within: Duration::from_secs(1),
        });
        Some(())
    }),
    ("a stream ends by itself", Rule::EndedAlone, |history| {
        history.events.push(Event::Ended { consumer: 1_000 });
        Some(())
    }),
    (
        "a stream goes on that said that it ends",
        Rule::WentOn,
        |history| {
            let at = find(history, |it| matches!(it, Event::Delivered { .. }))?;
            if let Event::Delivered { owner, .. } = history.events[at] {
                let consumer = owner.consumer;
                history.events.insert(at, Event::Broken { consumer });
            }
            Some(())
        },
    ),
    ("a group stops before the end", Rule::Stuck, stop_early),
    (
        "a message is forwarded again",
        Rule::NotExactlyOnce,
        |history| {
            let (_, message) = *history.logs[OUT].messages.first()?;
            write(history, OUT, message);
            Some(())
        },
    ),
    (
        "a message is not forwarded",
        Rule::NotExactlyOnce,
        |history| history.logs[OUT].messages.pop().map(drop),
    ),
    ("a message dies twice", Rule::NotExactlyOnce, |history| {
        let (_, message) = *history.logs[DEAD].messages.first()?;
        write(history, DEAD, message);
        Some(())
    }),
    (
        "what is forwarded changes places",
        Rule::ForwardedOutOfOrder,
        |history| {
            let messages = &mut history.logs[OUT].messages;
            let last = messages.len().checked_sub(2)?;
            (messages[last].1, messages[last + 1].1) = (messages[last + 1].1, messages[last].1);
            Some(())
        },
    ),
];

fn write(history: &mut History, log: usize, message: u64) {
    let messages = &mut history.logs[log].messages;
    let end = messages.last().map_or(0, |(last, _)| last + 1);
    messages.push((end, message));
}

/// Where a message is that a producer sent.
fn place(history: &History, message: u64) -> Option<(usize, usize)> {
    let logs = history.logs[..OUT].iter().enumerate();
    let mut places = logs.filter_map(|(number, log)| {
        let at = log
            .messages
            .iter()
            .position(|(_, other)| *other == message)?;
        Some((number, at))
    });
    places.next()
}

fn remove(history: &mut History, message: u64) -> Option<()> {
    let (log, at) = place(history, message)?;
    let messages = &mut history.logs[log].messages;
    messages.remove(at);
    for (offset, (wanted, _)) in (0..).zip(messages) {
        *wanted = offset;
    }
    Some(())
}

fn swallow(history: &mut History) -> Option<()> {
    let acked = history.events.iter().find_map(|event| match event {
        Event::Acked { message, .. } => Some(*message),
        _ => None,
    });
    remove(history, acked?)
}

fn lose_the_end(history: &mut History) -> Option<()> {
    let acked = history.events.iter().rev().find_map(|event| match event {
        Event::Acked { message, .. } => Some(*message),
        _ => None,
    })?;
    let (log, at) = place(history, acked)?;
    history.logs[log].messages.truncate(at);
    Some(())
}

fn write_twice(history: &mut History) -> Option<()> {
    let (_, message) = *history.logs[IN].messages.first()?;
    write(history, IN, message);
    Some(())
}

/// Two messages of one log, which were acknowledged one after the other, of the same producer or not.
fn exchange(history: &mut History, is_same: bool) -> Option<()> {
    let sent: Vec<(u32, u64)> = history
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Intent {
                producer, message, ..
            } if is_acked(history, *message) => Some((*producer, *message)),
            _ => None,
        })
        .collect();
    for (at, (producer, message)) in sent.iter().enumerate() {
        let (log, place_of) = place(history, *message)?;
        for (other_producer, other) in &sent[at + 1..] {
            let (other_log, other_place) = place(history, *other)?;
            let is_later = is_same || is_acked_before(history, *message, *other);
            if other_log == log && (producer == other_producer) == is_same && is_later {
                let messages = &mut history.logs[log].messages;
                messages[place_of].1 = *other;
                messages[other_place].1 = *message;
                return Some(());
            }
        }
    }
    None
}

fn is_acked(history: &History, wanted: u64) -> bool {
    let is_it = |event: &Event| matches!(event, Event::Acked { message, .. } if *message == wanted);
    history.events.iter().any(is_it)
}

fn is_acked_before(history: &History, acked: u64, sent: u64) -> bool {
    let first = history.events.iter().find_map(|event| match event {
        Event::Acked { message, .. } if *message == acked => Some(true),
        Event::Intent { message, .. } if *message == sent => Some(false),
        _ => None,
    });
    first == Some(true)
}

fn tear(history: &mut History) -> Option<()> {
    let one = history.events.iter().find_map(|event| match event {
        Event::Intent {
            message,
            unit: Some(_),
            ..
        } if is_acked(history, *message) => Some(*message),
        _ => None,
    })?;
    history
        .events
        .retain(|event| !matches!(event, Event::Acked { message, .. } if *message == one));
    remove(history, one)
}

fn write_what_failed(history: &mut History) -> Option<()> {
    let failed = history.events.iter().find_map(|event| match event {
        Event::Failed { message } => Some(*message),
        _ => None,
    })?;
    write(history, IN, failed);
    Some(())
}

fn send_late(history: &mut History) -> Option<()> {
    let first = history.events.iter().find_map(|event| match event {
        Event::Delivered { message, .. } => Some(*message),
        _ => None,
    })?;
    let at = history
        .events
        .iter()
        .position(|event| matches!(event, Event::Intent { message, .. } if *message == first))?;
    let intent = history.events.remove(at);
    history.events.push(intent);
    Some(())
}

fn leave_an_offset_out(history: &mut History) -> Option<()> {
    let messages = &mut history.logs[IN].messages;
    let half = messages.len() / 2;
    (half > 0).then_some(())?;
    messages[half..]
        .iter_mut()
        .for_each(|(offset, _)| *offset += 1);
    Some(())
}

fn tell_a_wrong_place(history: &mut History) -> Option<()> {
    let mut places = history.events.iter_mut().filter_map(|event| match event {
        Event::Acked { place, .. } => place.as_mut(),
        _ => None,
    });
    places.next()?.1 += 1;
    Some(())
}

fn deliver_another(history: &mut History) -> Option<()> {
    let (_, first) = *history.logs[IN].messages.first()?;
    let mut delivered = history.events.iter_mut().filter_map(|event| match event {
        Event::Delivered {
            owner,
            offset: 1..,
            message,
        } if owner.group == 0 => Some(message),
        _ => None,
    });
    *delivered.next_back()? = first;
    Some(())
}

fn about(event: &Event) -> Option<(usize, u64)> {
    match event {
        Event::Delivered { owner, offset, .. }
        | Event::Asked { owner, offset, .. }
        | Event::Committed { owner, offset }
        | Event::Fenced { owner, offset }
        | Event::Unknown { owner, offset }
        | Event::Retried { owner, offset } => Some((owner.group, *offset)),
        _ => None,
    }
}

/// Whether nobody said that it is done together with others.
fn stands_alone(history: &History, group: usize, wanted: u64) -> bool {
    let (_, message) = history.logs[history.groups[group].log].messages[wanted as usize];
    let is_moved = history.logs[DEAD]
        .messages
        .iter()
        .any(|(_, it)| *it == message);
    !is_moved
        && !history.events.iter().any(|event| {
            let Event::Asked {
                owner,
                offset,
                through: true,
            } = event
            else {
                return false;
            };
            owner.group == group && *offset > wanted
        })
}

fn skip(history: &mut History) -> Option<()> {
    let last = (history.logs[IN].messages.len() as u64).checked_sub(1)?;
    let skipped = (0..last).find(|offset| stands_alone(history, 0, *offset))?;
    history
        .events
        .retain(|event| about(event) != Some((0, skipped)));
    Some(())
}

fn stop_short(history: &mut History) -> Option<()> {
    let last = (history.logs[IN].messages.len() as u64).checked_sub(1)?;
    stands_alone(history, 0, last).then_some(())?;
    history
        .events
        .retain(|event| about(event) != Some((0, last)));
    Some(())
}

fn turn_round(history: &mut History) -> Option<()> {
    let at = history.events.windows(2).rposition(|pair| {
        let (Event::Delivered { owner: a, .. }, Event::Delivered { owner: b, .. }) =
            (&pair[0], &pair[1])
        else {
            return false;
        };
        a == b
    })?;
    history.events.swap(at, at + 1);
    Some(())
}

fn find(history: &History, fits: impl Fn(&Event) -> bool) -> Option<usize> {
    history.events.iter().position(fits)
}

fn come_again(history: &mut History) -> Option<()> {
    let at = find(history, |it| matches!(it, Event::Committed { .. }))?;
    let (group, offset) = about(&history.events[at])?;
    let delivered = history.events.iter().find(|event| {
        matches!(event, Event::Delivered { .. }) && about(event) == Some((group, offset))
    })?;
    let again = delivered.clone();
    history.events.insert(at + 1, again);
    Some(())
}

/// The first look at a group behind an event.
fn seen_after(history: &mut History, at: usize, group: usize) -> Option<usize> {
    let mut events = history.events.iter().enumerate().skip(at);
    let (at, _) =
        events.find(|(_, event)| matches!(event, Event::Seen(it) if it.group == group))?;
    Some(at)
}

fn drop_a_commit(history: &mut History) -> Option<()> {
    let at = find(history, |it| matches!(it, Event::Committed { .. }))?;
    let (group, offset) = about(&history.events[at])?;
    let at = seen_after(history, at, group)?;
    if let Event::Seen(seen) = &mut history.events[at] {
        seen.position = seen.position.min(offset);
        seen.acked.retain(|range| !range.contains(&offset));
    }
    Some(())
}

/// One that nobody else says is done, and that does not come again.
fn refuse_what_is_durable(history: &mut History) -> Option<()> {
    let is_last = |at: usize, owner: Owner, offset: u64| {
        let place = Some((owner.group, offset));
        let asks = |it: &&Event| matches!(it, Event::Asked { .. }) && about(it) == place;
        let comes = |it: &Event| matches!(it, Event::Delivered { .. }) && about(it) == place;
        stands_alone(history, owner.group, offset)
            && history.events.iter().filter(asks).count() == 1
            && !history.events[at..].iter().any(comes)
    };
    let mut events = history.events.iter().enumerate();
    let (at, owner, offset) = events.find_map(|(at, event)| match *event {
        Event::Committed { owner, offset } => {
            is_last(at, owner, offset).then_some((at, owner, offset))
        }
        _ => None,
    })?;
    history.events[at] = Event::Refused { owner, offset };
    Some(())
}

fn go_too_far(history: &mut History) -> Option<()> {
    let at = seen_after(history, 0, 0)?;
    let end = history.logs[IN].messages.len() as u64;
    if let Event::Seen(seen) = &mut history.events[at] {
        seen.acked.push(end + 1..end + 2);
    }
    Some(())
}

fn ignore_the_fence(history: &mut History) -> Option<()> {
    let at = find(history, |it| matches!(it, Event::Fenced { .. }))?;
    if let Event::Fenced { owner, offset } = history.events[at] {
        history.events[at] = Event::Committed { owner, offset };
    }
    Some(())
}

fn go_back(history: &mut History) -> Option<()> {
    let at = find(
        history,
        |it| matches!(it, Event::Seen(it) if it.position > 2),
    )?;
    let mut seen = history.events[at].clone();
    if let Event::Seen(seen) = &mut seen {
        seen.position -= 1;
    }
    history.events.insert(at + 1, seen);
    Some(())
}

fn fall_back(history: &mut History) -> Option<()> {
    let at = find(history, |it| matches!(it, Event::Seen(it) if it.epoch > 1))?;
    let mut seen = history.events[at].clone();
    if let Event::Seen(seen) = &mut seen {
        seen.epoch -= 1;
    }
    history.events.insert(at + 1, seen);
    Some(())
}

fn give_again(history: &mut History) -> Option<()> {
    let at = find(history, |it| matches!(it, Event::Active(_)))?;
    let again = history.events[at].clone();
    history.events.insert(at + 1, again);
    Some(())
}

fn give_twice(history: &mut History) -> Option<()> {
    let at = find(history, |it| matches!(it, Event::Active(_)))?;
    let Event::Active(owner) = history.events[at] else {
        return None;
    };
    let other = Owner {
        consumer: 1_000,
        ..owner
    };
    history.events.push(Event::Active(other));
    Some(())
}

fn stop_early(history: &mut History) -> Option<()> {
    let seen = history
        .events
        .iter_mut()
        .rev()
        .find_map(|event| match event {
            Event::Seen(seen) => Some(seen),
            _ => None,
        })?;
    seen.position = seen.position.checked_sub(1)?;
    Some(())
}
