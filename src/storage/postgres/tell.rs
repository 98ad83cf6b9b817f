//! Telling other processes what happened.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::columns::Reader;
use super::core::Core;
use super::gate::Pass;
use super::piece::MOST_ROWS;
use super::value::Value;
use crate::clock::Clock;
use crate::error::Result;
use crate::storage::notify::Notifier;
use crate::storage::{Id, Name, Notification, Partition};

/// Gathers what is to be told while one statement tells what came before: the first goes at once.
#[derive(Debug)]
pub(super) struct Teller {
    /// Says which notifications come from here: they were told already, within the process.
    tag: String,
    local: Arc<Notifier>,
    pending: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    ends: HashMap<Partition, u64>,
    released: HashSet<Partition>,
    is_telling: bool,
}

/// Each statement takes a lock of the whole server. One that took this long or longer, because others
/// tell too, is followed by a rest of the same length; a rest that is shorter is no timer's business.
const SLOW: Duration = Duration::from_millis(1);
const LONGEST_REST: Duration = Duration::from_millis(10);
/// While nobody listens, what happens is told this often: somebody may have begun to. Whoever begins
/// reads everything then, so nothing waits for longer.
const UNHEARD: Duration = Duration::from_millis(20);

impl Teller {
    pub(super) fn new(local: Arc<Notifier>) -> Self {
        Self {
            tag: format!("{:08x}", Id::random().0 as u32),
            local,
            pending: Mutex::default(),
        }
    }

    pub(super) fn tag(&self) -> &str {
        &self.tag
    }

    /// What tells others of this; empty if it is not for others.
    pub(super) fn text(&self, notification: &Notification) -> String {
        encode(&self.tag, notification).unwrap_or_default()
    }

    /// Tells the subscribers of this process what others are told in another way.
    pub(super) fn tell_here(&self, notifications: impl IntoIterator<Item = Notification>) {
        self.local.send(notifications);
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Vec<String> {
        let mut pending = self.pending();
        let ends = std::mem::take(&mut pending.ends);
        let released = std::mem::take(&mut pending.released);
        let ends = ends
            .into_iter()
            .map(|(of, end)| Notification::Appended(of, end));
        let released = released.into_iter().map(Notification::Released);
        ends.chain(released)
            .filter_map(|notification| encode(&self.tag, &notification))
            .collect()
    }
}

/// Tells the subscribers of this process at once, and others as soon as the server has time.
pub(super) fn tell(core: &Arc<Core>, pass: &Pass, notifications: Vec<Notification>) {
    let teller = &core.teller;
    let mut pending = teller.pending();
    for notification in &notifications {
        match notification {
            Notification::Appended(of, end) => {
                let known = pending.ends.entry(of.clone()).or_default();
                *known = (*known).max(*end);
            }
            Notification::Released(of) => drop(pending.released.insert(of.clone())),
            Notification::Missed => {}
        }
    }
    let starts = !pending.is_telling;
    pending.is_telling = true;
    drop(pending);
    teller.local.send(notifications);
    if starts {
        let telling = Telling {
            core: core.clone(),
            _pass: pass.another(),
        };
        tokio::spawn(telling.run());
    }
}

/// Also when its runtime ends, the next to tell something begins anew.
struct Telling {
    core: Arc<Core>,
    _pass: Pass,
}

impl Telling {
    async fn run(self) {
        let core = &self.core;
        loop {
            let texts = core.teller.take();
            if texts.is_empty() {
                return;
            }
            let began = core.clock.now();
            let told = self.tell(&texts).await;
            let now = core.clock.now();
            let took = now.saturating_sub(began);
            let rest = match told.map(|rows| has_audience(&rows)) {
                Ok(false) => UNHEARD,
                Ok(true) if took < SLOW => continue,
                Ok(true) => took.min(LONGEST_REST),
                Err(error) => {
                    // Others look by themselves, a little later.
                    tracing::debug!(%error, "could not tell other processes of messages");
                    took.min(LONGEST_REST)
                }
            };
            core.clock.sleep_until(now + rest).await;
        }
    }

    async fn tell(&self, texts: &[String]) -> Result<Vec<PgRow>> {
        let core = &self.core;
        let me = Uuid::from_u128(core.listening.me().0);
        let mut told = Vec::new();
        for texts in texts.chunks(MOST_ROWS) {
            let values = [
                Value::Text(&core.schema),
                Value::Texts(texts),
                Value::Id(me),
            ];
            told = core.run(&core.aside, &core.sql.notify, &values).await?;
        }
        Ok(told)
    }
}

/// Whether another process said that it listens. Where that is not understood, one may.
fn has_audience(rows: &[PgRow]) -> bool {
    let first = rows.first();
    first.is_none_or(|row| Reader::new(row).bool().unwrap_or(true))
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.core.teller.pending().is_telling = false;
    }
}

/// Tag, kind, partition, end of the log, stream. `None` for what is not told.
fn encode(tag: &str, notification: &Notification) -> Option<String> {
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

/// What a stranger writes to the channel.
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
