//! What is under way: group writes, and looks at the storage.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::completion::Completion;
use super::group_write::GroupWrite;
use super::request::AppendRequest;
use super::rows::Targets;
use super::shared::AppenderShared;
use crate::name::Name;
use crate::storage::Partition;

/// A group write under way, or a look at the storage for a batch.
pub(super) struct InFlight<'a> {
    /// Tells it from the others.
    pub(super) number: u64,
    pub(super) began: Duration,
    /// It takes long: what does not need the same goes beside it, and what does is set aside.
    pub(super) is_aside: bool,
    /// `None` for a look.
    pub(super) completion: Option<Arc<Completion>>,
    /// The partitions that it goes to.
    targets: Few<Partition>,
    /// The streams that it learns.
    unknown: Vec<Name>,
    /// The sequences of what is in it, by their addresses.
    sequences: Few<usize>,
    /// Targets, streams and sequences as sets to look things up in: few are ever asked.
    sets: OnceCell<Box<Sets>>,
    pub(super) work: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

struct Sets {
    targets: Targets,
    unknown: HashSet<Name>,
    sequences: HashSet<usize>,
}

impl<'a> InFlight<'a> {
    pub(super) fn write(
        shared: &'a AppenderShared,
        number: u64,
        group_write: GroupWrite,
        before: Option<Arc<Completion>>,
    ) -> Self {
        let completion = Arc::new(Completion::new());
        Self {
            number,
            began: shared.clock.now(),
            is_aside: false,
            completion: Some(completion.clone()),
            targets: group_write.targets().cloned().collect(),
            unknown: Vec::new(),
            sequences: group_write.sequences().collect(),
            sets: OnceCell::new(),
            work: Box::pin(shared.write(group_write, completion, before)),
        }
    }

    pub(super) fn look(shared: &'a AppenderShared, number: u64, request: AppendRequest) -> Self {
        Self {
            number,
            began: shared.clock.now(),
            is_aside: true,
            completion: None,
            targets: Few::default(),
            unknown: shared.routing.unknown(&request),
            sequences: [request.sequence.address()].into_iter().collect(),
            sets: OnceCell::new(),
            work: Box::pin(shared.look(request)),
        }
    }

    pub(super) fn is_look(&self) -> bool {
        self.completion.is_none()
    }

    pub(super) fn is_older(&self, age: Duration, now: Duration) -> bool {
        self.began.saturating_add(age) <= now
    }

    /// The only partition that it goes to, if that is one: then another may follow it.
    pub(super) fn target(&self) -> Option<&Partition> {
        self.targets.only()
    }

    /// Whether a batch has to wait for it.
    pub(super) fn is_before(
        &self,
        request: &AppendRequest,
        shared: &AppenderShared,
        turn: u32,
    ) -> bool {
        let sets = self.sets.get_or_init(|| {
            Box::new(Sets {
                targets: self.targets.iter().collect(),
                unknown: self.unknown.iter().cloned().collect(),
                sequences: self.sequences.iter().copied().collect(),
            })
        });
        sets.sequences.contains(&request.sequence.address())
            || shared.routing.needs(request, &sets.unknown)
            || shared.routing.goes_to(request, turn, &sets.targets)
    }
}

/// Mostly one, which is not put on the heap.
struct Few<T> {
    first: Option<T>,
    more: Vec<T>,
}

impl<T> Few<T> {
    fn iter(&self) -> impl Iterator<Item = &T> {
        self.first.iter().chain(&self.more)
    }

    fn only(&self) -> Option<&T> {
        self.first.as_ref().filter(|_| self.more.is_empty())
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        std::iter::empty().collect()
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut all = all.into_iter();
        let first = all.next();
        Self {
            first,
            more: all.collect(),
        }
    }
}
