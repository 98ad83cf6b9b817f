//! What must hold of the ends of streams, and of the time that answers take.

use std::collections::HashSet;

use super::Event;
use super::check::{Context, Rule};

pub(super) fn check(context: &mut Context<'_>) {
    let mut may_end = HashSet::new();
    let mut broken = HashSet::new();
    for event in &context.history.events {
        match event {
            Event::ShutDown { consumer } => drop(may_end.insert(*consumer)),
            Event::Broken { consumer } => drop(broken.insert(*consumer)),
            Event::Ended { consumer }
                if !may_end.contains(consumer) && !broken.contains(consumer) =>
            {
                let text = format!("the stream of {consumer} ended, and nobody knows why");
                context.found(Rule::EndedAlone, text);
            }
            Event::Delivered { owner, offset, .. } if broken.contains(&owner.consumer) => {
                let text = format!(
                    "{offset} came to {}, whose stream had ended",
                    owner.consumer
                );
                context.found(Rule::WentOn, text);
            }
            Event::Answered {
                message,
                took,
                within,
            } if took > within => {
                let text = format!("{message}: after {took:?}, not within {within:?}");
                context.found(Rule::LateAnswer, text);
            }
            _ => {}
        }
    }
}
