//! What must hold of what is forwarded.

use std::collections::{HashMap, HashSet};

use super::Forward;
use super::check::{Context, Rule};

pub(super) fn check(context: &mut Context<'_>) {
    for forward in &context.history.forwards {
        check_once(context, forward);
        if forward.is_whole {
            check_order(context, forward);
        }
    }
}

fn check_once(context: &mut Context<'_>, forward: &Forward) {
    let history = context.history;
    let mut expected = HashSet::new();
    for group in &forward.groups {
        let group = &history.groups[*group];
        let messages = history.logs[group.log].messages.iter();
        let messages = messages.filter(|(offset, _)| *offset >= group.start);
        expected.extend(messages.map(|(_, message)| *message));
    }
    let mut written = HashSet::new();
    for log in &forward.to {
        let log = &history.logs[*log];
        for (offset, message) in &log.messages {
            if !expected.contains(message) {
                let text = format!(
                    "{message} at {offset} of {} was not there to forward",
                    log.name
                );
                context.found(Rule::NotExactlyOnce, text);
            }
            if !written.insert(*message) {
                let text = format!("{message} was forwarded again, to {offset} of {}", log.name);
                context.found(Rule::NotExactlyOnce, text);
            }
        }
    }
    if forward.is_whole {
        let mut missing: Vec<&u64> = expected.difference(&written).collect();
        missing.sort_unstable();
        if !missing.is_empty() {
            context.found(
                Rule::NotExactlyOnce,
                format!("{missing:?} were not forwarded"),
            );
        }
    }
}

/// What comes from one log and goes to one log keeps its order.
fn check_order(context: &mut Context<'_>, forward: &Forward) {
    let history = context.history;
    let mut from = HashMap::new();
    for group in &forward.groups {
        let log = history.groups[*group].log;
        for (offset, message) in &history.logs[log].messages {
            from.insert(*message, (log, *offset));
        }
    }
    for to in &forward.to {
        let mut last: HashMap<usize, u64> = HashMap::new();
        for (at, message) in &history.logs[*to].messages {
            let Some((log, offset)) = from.get(message) else {
                continue;
            };
            let before = last.insert(*log, *offset);
            if before > Some(*offset) {
                let text = format!(
                    "{message} at {at} of {} is from {offset}, behind {before:?}",
                    history.logs[*to].name
                );
                context.found(Rule::ForwardedOutOfOrder, text);
                break;
            }
        }
    }
}
