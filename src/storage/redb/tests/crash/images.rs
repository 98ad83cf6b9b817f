//! What a disk may hold after a crash: all that was synced, and some of what came after.

use super::super::super::faults::{Change, Journal};
use crate::fuzzing::random::Random;

/// The unit in which a disk writes.
const SECTOR: usize = 512;

/// Which of the changes after the last sync are on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kept {
    Nothing,
    All,
    /// Some of them, in their order.
    Some,
    /// All, but of the last write only its first sectors.
    Torn,
}

pub(super) struct Image {
    pub(super) kept: Kept,
    /// The crash came before the change with this number.
    pub(super) at: usize,
    pub(super) file: Vec<u8>,
}

/// Calls `each` with every image of a crash before each change, and at the end; `subsets` random
/// ones a moment.
pub(super) fn each(
    journal: &Journal,
    random: &mut Random,
    subsets: usize,
    mut call: impl FnMut(Image),
) {
    let mut durable = journal.before.clone();
    let mut pending: Vec<&Change> = Vec::new();
    for at in 0..=journal.changes.len() {
        let mut image = |kept, changes: &[&Change], torn: Option<&Change>| {
            let mut file = durable.clone();
            changes.iter().for_each(|change| apply(change, &mut file));
            torn.iter().for_each(|change| apply(change, &mut file));
            call(Image { kept, at, file });
        };
        let next = journal.changes.get(at);
        // As long as nothing is synced it is the same one, and the last moment promises the most.
        if matches!(next, None | Some(Change::Sync)) {
            image(Kept::Nothing, &[], None);
        }
        if let Some((last, others)) = pending.split_last() {
            image(Kept::All, &pending, None);
            for _ in 0..subsets {
                let kept: Vec<&Change> = pending
                    .clone()
                    .into_iter()
                    .filter(|_| random.one_in(2))
                    .collect();
                image(Kept::Some, &kept, None);
            }
            if let Change::Write(offset, data) = last
                && data.len() > SECTOR
            {
                let sectors = 1 + random.below((data.len() - 1) / SECTOR);
                let torn = Change::Write(*offset, data[..sectors * SECTOR].to_vec());
                image(Kept::Torn, others, Some(&torn));
            }
        }
        match next {
            Some(Change::Sync) => pending
                .drain(..)
                .for_each(|change| apply(change, &mut durable)),
            Some(change) => pending.push(change),
            None => {}
        }
    }
}

/// What a disk would hold that put each sync off until the next one: for the check of the check.
pub(super) fn lying(journal: &Journal, mut call: impl FnMut(Image)) {
    let mut before = journal.before.clone();
    let mut file = journal.before.clone();
    for (at, change) in (1..).zip(&journal.changes) {
        apply(change, &mut file);
        if let Change::Sync = change {
            let file = std::mem::replace(&mut before, file.clone());
            let kept = Kept::Nothing;
            call(Image { kept, at, file });
        }
    }
}

fn apply(change: &Change, file: &mut Vec<u8>) {
    match change {
        Change::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if file.len() < end {
                file.resize(end, 0);
            }
            file[start..end].copy_from_slice(data);
        }
        Change::SetLen(len) => file.resize(*len as usize, 0),
        Change::Sync => {}
    }
}
