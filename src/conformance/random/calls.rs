//! Each call, and how its answer is compared with that of the model.

use std::sync::Arc;

use super::Run;
use crate::conformance::build::{self, read};
use crate::conformance::support::{assert_fenced, known};
use crate::storage::{Append, Claim, Group, Id, Lease, Over, Ranges, Row, Verdicts};

impl Run<'_> {
    pub(super) async fn step(&mut self) {
        match self.random.below(25) {
            0..6 => self.append_new().await,
            6 | 7 => self.append_again().await,
            8 => self.settle().await,
            9..12 => self.claim().await,
            12..16 => self.commit().await,
            16 => self.release().await,
            17 => self.trim().await,
            18 | 19 => self.read().await,
            20 => self.reset().await,
            21 => self.create_group().await,
            22 => self.list().await,
            _ => self.append_dropped().await,
        }
    }

    async fn append_new(&mut self) {
        let append = self.new_append();
        self.append(append).await;
    }

    async fn append_again(&mut self) {
        if let Some(append) = self.random.pick(&self.appends).cloned() {
            self.append(append).await;
        }
    }

    pub(super) async fn append(&mut self, append: Arc<Append>) {
        self.calls.push(format!("{append:?}"));
        let appended = self.subject.append(append.clone()).await;
        let appended = appended.unwrap_or_else(|error| self.fail(&error.to_string()));
        let expected = self.model.append(&append);
        self.same(&known(appended), &expected);
        // One that was fenced may come again too, and be fenced or not by then. One of commits alone
        // is in no log, where its id could be found.
        if !append.rows.is_empty() {
            self.appends.push(append);
        }
    }

    /// Some rows, mostly without commits, or commits alone.
    pub(super) fn new_append(&mut self) -> Arc<Append> {
        let mut rows = Vec::new();
        for partition in self.partitions.clone() {
            if self.random.below(2) == 0 {
                let bodies = (0..=self.random.below(3)).map(|_| self.random.body());
                let records = build::records(bodies.collect::<Vec<_>>());
                rows.push(Row { partition, records });
            }
        }
        let mut commits: Vec<(Lease, Ranges)> = Vec::new();
        for group in self.groups.clone() {
            if self.random.below(4) > 0 {
                continue;
            }
            if let Some(lease) = self.lease(&group) {
                let done = self.ranges(&group);
                commits.push((lease, done));
            }
        }
        if rows.is_empty() && (commits.is_empty() || self.random.below(2) == 0) {
            let partition = self.partitions[0].clone();
            let records = build::records([self.random.body()]);
            rows.push(Row { partition, records });
        }
        // One that is in the log, mostly: of the others some were refused.
        let before = match self.random.below(4) {
            0 => self.random.pick(&self.appends).map(|append| append.id),
            _ => None,
        };
        Arc::new(Append {
            id: Id::random(),
            after: before,
            rows,
            commits,
        })
    }

    /// The lease as it is, or sometimes one that was lost long ago.
    fn lease(&mut self, group: &Group) -> Option<Lease> {
        let leases: Vec<Lease> = self
            .leases
            .iter()
            .filter(|lease| lease.group == *group)
            .cloned()
            .collect();
        if self.random.below(4) == 0 {
            return self.random.pick(&leases).cloned();
        }
        leases.last().cloned()
    }

    /// Some offsets that are in the log.
    fn ranges(&mut self, group: &Group) -> Ranges {
        let log = &self.model.logs[&group.partition];
        let (start, end) = (log.start, log.end());
        let mut ranges = Ranges::new();
        for _ in 0..self.random.below(3) {
            let at = start + self.random.below(end - start + 1);
            ranges.insert(at..(at + 1 + self.random.below(4)).min(end));
        }
        ranges
    }

    /// Some offsets that are done, and mostly no attempts.
    fn verdicts(&mut self, group: &Group) -> Verdicts {
        let done = self.ranges(group);
        let tried = match self.random.below(3) {
            0 => self.ranges(group),
            _ => Ranges::new(),
        };
        let tried: Vec<u64> = tried.iter().flatten().collect();
        let count = |at| (at, 1 + self.random.below(4) as u32);
        let attempts = tried.into_iter().map(count).collect();
        Verdicts { done, attempts }
    }

    async fn settle(&mut self) {
        let known = self.random.pick(&self.appends).cloned();
        let append = match known {
            Some(known) if self.random.below(2) == 0 => known,
            _ => self.new_append(),
        };
        if append.rows.is_empty() {
            return;
        }
        self.calls.push(format!("settle {append:?}"));
        let settled = self.subject.settle(append.clone()).await;
        let settled = settled.unwrap_or_else(|error| self.fail(&error.to_string()));
        let expected = self.model.settle(&append);
        self.same(&settled, &expected);
        self.appends.push(append);
    }

    async fn claim(&mut self) {
        let group = self.random.pick(&self.groups).expect("groups").clone();
        let member = self.model.member(&group);
        let (epoch, generation) = (member.epoch, member.generation());
        let owner = member.owner;
        let claim = Claim {
            group: group.clone(),
            owner: match owner {
                Some(owner) if self.random.below(4) == 0 => owner,
                _ => Id::random(),
            },
            over: match self.random.below(4) {
                0 => None,
                at => Some(Over {
                    epoch,
                    generation: match at {
                        1 => generation.saturating_sub(self.random.below(3)),
                        _ => generation,
                    },
                    counts_attempt: self.random.below(4) > 0,
                }),
            },
        };
        self.calls.push(format!("{claim:?}"));
        let state = self.subject.claim(claim.clone()).await;
        let state = state.unwrap_or_else(|error| self.fail(&error.to_string()));
        let won = self.model.claim(&claim);
        self.same(&(state.owner == Some(claim.owner)), &won);
        if won {
            self.leases.push(Lease {
                group,
                owner: claim.owner,
                epoch: state.epoch,
            });
        }
    }

    async fn commit(&mut self) {
        let group = self.random.pick(&self.groups).expect("groups").clone();
        let Some(lease) = self.lease(&group) else {
            return;
        };
        let verdicts = self.verdicts(&group);
        self.calls.push(format!("commit {verdicts:?} of {lease:?}"));
        let committed = self.subject.commit(&lease, &verdicts).await;
        if self.model.commit(&lease, &verdicts) {
            let progress = committed.unwrap_or_else(|error| self.fail(&error.to_string()));
            let stored = self.subject.state(&group).await.progress;
            self.same(&progress, &stored);
        } else {
            assert_fenced(&committed, &self.report("a commit of a lost lease"));
        }
    }

    async fn release(&mut self) {
        let group = self.random.pick(&self.groups).expect("groups").clone();
        let Some(lease) = self.lease(&group) else {
            return;
        };
        self.calls.push(format!("release {lease:?}"));
        self.subject.released(&lease).await;
        self.model.release(&lease);
    }

    async fn trim(&mut self) {
        let partition = self.random.pick(&self.partitions).expect("some").clone();
        let log = &self.model.logs[&partition];
        let (start, end) = (log.start, log.end());
        let most = if self.random.below(4) == 0 {
            end - start
        } else {
            6
        };
        let before = start + self.random.below(most + 1);
        self.calls.push(format!("trim {partition} before {before}"));
        let trimmed = self.subject.trim(&partition, before).await;
        let trimmed = trimmed.unwrap_or_else(|error| self.fail(&error.to_string()));
        let expected = self.model.trim(&partition, before);
        self.same(&trimmed, &expected);
    }

    async fn read(&mut self) {
        let partition = self.random.pick(&self.partitions).expect("some").clone();
        let end = self.model.logs[&partition].end();
        let from = self.random.below(end + 3);
        let max_bytes = self.random.below(400) as usize;
        self.calls.push(format!("read {partition} from {from}"));
        let fetched = self.subject.read(read(&partition, from, max_bytes)).await;
        let fetched = fetched.unwrap_or_else(|error| self.fail(&error.to_string()));
        let log = &self.model.logs[&partition];
        self.same(&fetched.bounds, &(log.start..log.end()));
        let mut expected = log.from(from);
        if fetched.batches.is_empty() && expected.next().is_some() {
            self.fail("a read gives at least one batch if there is one");
        }
        let mut expected = log.from(from);
        for batch in &fetched.batches {
            let bodies = (0..batch.records.len())
                .map(|index| batch.records.message(index).body().clone())
                .collect();
            self.same(&Some(&(batch.offsets(), bodies)), &expected.next());
        }
    }
}
