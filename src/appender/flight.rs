//! What is under way: statements, and looks at the storage.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::landing::Landing;
use super::rows::Targets;
use super::statement::Statement;
use super::submission::Submission;
use crate::name::Name;
use crate::storage::Partition;

/// A statement under way, or a look at the storage for a batch.
pub(super) struct Flight<'a> {
    /// Tells it from the others.
    pub(super) number: u64,
    pub(super) began: Duration,
    /// It takes long: what does not need the same goes beside it, and what does is set aside.
    pub(super) is_aside: bool,
    /// `None` for a look.
    pub(super) landing: Option<Arc<Landing>>,
    /// The partitions that it goes to.
    targets: Few<Partition>,
    /// The streams that it learns.
    lacking: Vec<Name>,
    /// The chains of what is in it, by their addresses.
    chains: Few<usize>,
    /// The same, to look things up in: few are ever asked.
    sets: OnceCell<Box<Sets>>,
    pub(super) work: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

struct Sets {
    targets: Targets,
    lacking: HashSet<Name>,
    chains: HashSet<usize>,
}

impl<'a> Flight<'a> {
    pub(super) fn write(
        shared: &'a Shared,
        number: u64,
        statement: Statement,
        before: Option<Arc<Landing>>,
    ) -> Self {
        let landing = Arc::new(Landing::new());
        Self {
            number,
            began: shared.clock.now(),
            is_aside: false,
            landing: Some(landing.clone()),
            targets: statement.targets().cloned().collect(),
            lacking: Vec::new(),
            chains: statement.chains().collect(),
            sets: OnceCell::new(),
            work: Box::pin(shared.write(statement, landing, before)),
        }
    }

    pub(super) fn look(shared: &'a Shared, number: u64, submission: Submission) -> Self {
        Self {
            number,
            began: shared.clock.now(),
            is_aside: true,
            landing: None,
            targets: Few::default(),
            lacking: shared.routes.lacking(&submission),
            chains: [submission.chain.address()].into_iter().collect(),
            sets: OnceCell::new(),
            work: Box::pin(shared.look(submission)),
        }
    }

    pub(super) fn is_look(&self) -> bool {
        self.landing.is_none()
    }

    pub(super) fn is_older(&self, age: Duration, now: Duration) -> bool {
        self.began.saturating_add(age) <= now
    }

    /// The only partition that it goes to, if that is one: then another may follow it.
    pub(super) fn target(&self) -> Option<&Partition> {
        self.targets.only()
    }

    /// Whether a batch has to wait for it.
    pub(super) fn is_before(&self, submission: &Submission, shared: &Shared, turn: u32) -> bool {
        let sets = self.sets.get_or_init(|| {
            Box::new(Sets {
                targets: self.targets.iter().collect(),
                lacking: self.lacking.iter().cloned().collect(),
                chains: self.chains.iter().copied().collect(),
            })
        });
        sets.chains.contains(&submission.chain.address())
            || shared.routes.needs(submission, &sets.lacking)
            || shared.routes.goes_to(submission, turn, &sets.targets)
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
