//! The calls of operators, and calls that nobody waits for.

use super::Run;
use crate::conformance::build::name;
use crate::conformance::support::poll_once;
use crate::error::ErrorKind;
use crate::storage::{Group, Partition, Reset, Start, Storage};

impl Run<'_> {
    /// Moves a group, or takes its lease away.
    pub(super) async fn reset(&mut self) {
        let group = self.random.pick(&self.groups).expect("groups").clone();
        let to = match self.random.below(3) {
            0 => None,
            _ => Some(self.start(&group.partition)),
        };
        let reset = Reset {
            group: group.clone(),
            to: to.map(|(start, _)| start),
            is_forced: self.random.below(3) > 0,
        };
        self.calls.push(format!("{reset:?}"));
        let is_held = self.model.member(&group).owner.is_some();
        let state = Storage::reset(&**self.subject, reset.clone()).await;
        match state {
            Ok(state) => {
                // An owner of before a restart may be known to be dead.
                if is_held && !reset.is_forced && !self.reopened {
                    self.fail("a reset of an active group was not forced");
                }
                self.same(&state.owner, &None);
                let position = to.map(|(_, position)| position);
                self.model.member(&group).reset(position);
            }
            Err(error) if error.kind() == ErrorKind::Invalid && is_held && !reset.is_forced => {}
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Some place to begin, and its offset.
    fn start(&mut self, partition: &Partition) -> (Start, u64) {
        let log = &self.model.logs[partition];
        let (start, end) = (log.start, log.end());
        match self.random.below(4) {
            0 => (Start::Earliest, start),
            1 => (Start::Latest, end),
            _ => {
                // A little beyond the end, too.
                let offset = start + self.random.below(end - start + 3);
                (Start::Offset(offset), offset)
            }
        }
    }

    /// Creates a group that may be there already.
    pub(super) async fn create_group(&mut self) {
        let partition = self.random.pick(&self.partitions).expect("some").clone();
        let (start, position) = self.start(&partition);
        let group = Group {
            partition,
            name: name(["g", "h", "i"][self.random.below(3) as usize]),
        };
        self.calls.push(format!("create {group} at {start:?}"));
        let created = self.subject.create_group(&group, start).await;
        created.unwrap_or_else(|error| self.fail(&error.to_string()));
        self.model.create_group(&group, position);
        if !self.groups.contains(&group) {
            self.groups.push(group);
        }
    }

    /// Asks for all groups of a stream, and for the bounds of all partitions.
    pub(super) async fn list(&mut self) {
        let partitions = self.partitions.clone();
        self.calls.push("list".into());
        let bounds = self.subject.bounds(&partitions).await;
        let bounds = bounds.unwrap_or_else(|error| self.fail(&error.to_string()));
        let logs = partitions.iter().map(|it| &self.model.logs[it]);
        let expected: Vec<_> = logs.map(|log| log.start..log.end()).collect();
        self.same(&bounds, &expected);
        let stream = &partitions[0].stream;
        let groups = self.subject.groups(Some(stream)).await;
        let groups = groups.unwrap_or_else(|error| self.fail(&error.to_string()));
        let known = self.model.groups.keys();
        let expected = known.filter(|group| group.partition.stream == *stream);
        self.same(&groups, &expected.cloned().collect());
    }

    /// An append whose future is dropped after its first poll, and that comes again then.
    pub(super) async fn append_dropped(&mut self) {
        let append = self.new_append();
        if append.rows.is_empty() {
            return;
        }
        self.calls.push(format!("drop {append:?}"));
        let _ = poll_once(self.subject.append(append.clone()));
        self.append(append).await;
    }
}
