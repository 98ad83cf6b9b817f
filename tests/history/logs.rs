//! What must hold of logs and their producers.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Event;
use super::check::{Context, Rule};

pub(super) fn check(context: &mut Context<'_>) {
    check_offsets(context);
    check_producers(context);
}

/// Offsets without gaps, and each message once.
fn check_offsets(context: &mut Context<'_>) {
    let history = context.history;
    for (number, log) in history.logs.iter().enumerate() {
        for (wanted, (offset, message)) in (log.start..).zip(&log.messages) {
            if *offset != wanted {
                let text = format!("{} has offset {offset} where {wanted} belongs", log.name);
                context.found(Rule::Gap, text);
                break;
            }
            if log.is_forwarded {
                continue;
            }
            let before = context.places.insert(*message, (number, *offset));
            if let Some((other, before)) = before {
                let other = &history.logs[other].name;
                let name = &log.name;
                let text = format!("{message} is at {before} of {other} and at {offset} of {name}");
                context.found(Rule::Doubled, text);
            }
        }
    }
}

#[derive(Default)]
struct Producers {
    sent: HashSet<u64>,
    /// Their producer has given them up, so they may land behind what it sent later.
    given_up: HashSet<u64>,
    /// The last place of each producer in each log.
    last: HashMap<(u32, usize), u64>,
    /// The last place in each log that was acknowledged so far.
    acked: HashMap<usize, u64>,
    /// How many messages of each append there are, and how many are in a log.
    units: BTreeMap<u64, (u64, u64)>,
}

fn check_producers(context: &mut Context<'_>) {
    let given_up = context
        .history
        .events
        .iter()
        .filter_map(|event| match event {
            Event::InDoubt { message } => Some(*message),
            _ => None,
        });
    let mut producers = Producers {
        given_up: given_up.collect(),
        ..Producers::default()
    };
    for event in &context.history.events {
        match event {
            Event::Intent {
                producer,
                message,
                unit,
            } => producers.intent(context, *producer, *message, *unit),
            Event::Acked { message, place } => producers.acked(context, *message, *place),
            Event::Failed { message } => {
                if let Some((log, offset)) = context.places.get(message) {
                    let name = &context.history.logs[*log].name;
                    let text = format!("{message} failed, and is at {offset} of {name}");
                    context.found(Rule::AbortedRead, text);
                }
            }
            Event::Delivered { message, .. } if !producers.sent.contains(message) => {
                let text = format!("{message} was delivered before it was sent");
                context.found(Rule::FromNowhere, text);
            }
            _ => {}
        }
    }
    let strange: Vec<u64> = context
        .places
        .keys()
        .filter(|message| !producers.sent.contains(message))
        .copied()
        .collect();
    for message in strange {
        context.found(Rule::FromNowhere, format!("nobody sent {message}"));
    }
    let is_trimmed = context.history.logs.iter().any(|log| log.start > 0);
    for (unit, (sent, written)) in producers.units {
        if written > 0 && written < sent && !is_trimmed {
            let text = format!("of append {unit} {written} of {sent} messages are there");
            context.found(Rule::Torn, text);
        }
    }
}

impl Producers {
    fn intent(
        &mut self,
        context: &mut Context<'_>,
        producer: u32,
        message: u64,
        unit: Option<u64>,
    ) {
        self.sent.insert(message);
        let place = context.places.get(&message).copied();
        if let Some(unit) = unit {
            let (sent, written) = self.units.entry(unit).or_default();
            *sent += 1;
            *written += u64::from(place.is_some());
        }
        let Some((log, offset)) = place else { return };
        let name = &context.history.logs[log].name;
        if !self.given_up.contains(&message)
            && let Some(before) = self.last.insert((producer, log), offset)
            && before > offset
        {
            let text = format!(
                "producer {producer}: {message} is at {offset} of {name}, behind one at {before}"
            );
            context.found(Rule::Reordered, text);
        }
        if let Some(before) = self.acked.get(&log)
            && *before > offset
        {
            let text = format!(
                "{message} is at {offset} of {name}, and {before} was acknowledged before it was sent"
            );
            context.found(Rule::OutOfTime, text);
        }
    }

    fn acked(&mut self, context: &mut Context<'_>, message: u64, place: Option<(usize, u64)>) {
        let logs = &context.history.logs;
        let Some((log, offset)) = context.places.get(&message).copied() else {
            let was_trimmed = match place {
                Some((log, offset)) => offset < logs[log].start,
                None => logs.iter().any(|log| log.start > 0),
            };
            if !was_trimmed {
                context.found(
                    Rule::Lost,
                    format!("{message} was acknowledged at {place:?}"),
                );
            }
            return;
        };
        if let Some((said, at)) = place
            && (said, at) != (log, offset)
        {
            let (said, name) = (&logs[said].name, &logs[log].name);
            let text =
                format!("{message} was said to be at {at} of {said}, not {offset} of {name}");
            context.found(Rule::WrongPlace, text);
        }
        let acked = self.acked.entry(log).or_default();
        *acked = (*acked).max(offset);
    }
}
