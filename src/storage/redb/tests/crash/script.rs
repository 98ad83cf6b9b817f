//! A script of operations, the same for the same seed, and what a storage holds after each.

use std::collections::BTreeMap;

use futures::future::join_all;

use super::super::*;
use crate::fuzzing::random::Random;
use crate::storage::{Progress, Ranges};

const PARTITIONS: u32 = 2;
const GROUPS: [&str; 2] = ["billing", "audit"];

#[derive(Debug, Clone)]
pub(super) enum Op {
    Create(&'static str),
    Append(Arc<Bodies>),
    /// Appends at the same time.
    Together(Vec<Arc<Bodies>>),
    Group(&'static str, Start),
    Claim(&'static str, u128),
    Commit(&'static str, Vec<Range<u64>>, Vec<(u64, u32)>),
    Release(&'static str),
    Settle(u128),
    Trim(u32, u64),
    Reset(&'static str, Option<Start>),
    Reopen,
}

/// What is appended: bodies by partition of `orders`, and perhaps what a group has done.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    pub(super) id: u128,
    pub(super) rows: Vec<(u32, Vec<String>)>,
    done: Option<(&'static str, Range<u64>)>,
}

/// So many operations, of every kind.
pub(super) fn script(seed: u64, len: usize) -> Vec<Op> {
    let mut writer = Writer {
        random: Random::new(seed),
        ends: [0; PARTITIONS as usize],
        unordered: Vec::new(),
        number: 0,
    };
    let mut ops = vec![Op::Create("orders")];
    ops.push(Op::Append(writer.append(4)));
    for group in GROUPS {
        ops.push(Op::Group(group, Start::Earliest));
        ops.push(Op::Claim(group, 1));
    }
    while ops.len() < len {
        ops.push(writer.op());
    }
    ops
}

struct Writer {
    random: Random,
    ends: [u64; PARTITIONS as usize],
    /// Offsets of partition 0 that were given to several appends at the same time.
    unordered: Vec<Range<u64>>,
    number: u128,
}

impl Writer {
    fn op(&mut self) -> Op {
        let group = *self.random.pick(&GROUPS);
        match self.random.below(22) {
            0..=4 => Op::Append(self.append(3)),
            5 => Op::Append(self.append(40)),
            6 | 7 => {
                let mut append = Arc::unwrap_or_clone(self.append(3));
                append.done = Some((group, self.range()));
                Op::Append(Arc::new(append))
            }
            8 | 9 => {
                let count = 2 + self.random.below(6);
                let before = self.ends[0];
                let all = (0..count).map(|_| self.append(2)).collect();
                self.unordered.push(before..self.ends[0]);
                Op::Together(all)
            }
            10..=12 => {
                let ranges = (0..1 + self.random.below(3)).map(|_| self.range());
                Op::Commit(group, ranges.collect(), self.attempts())
            }
            13 | 14 => {
                self.number += 1;
                Op::Claim(group, self.number)
            }
            15 => Op::Release(group),
            16 => {
                self.number += 1;
                Op::Settle(self.number)
            }
            17 => Op::Trim(0, self.cut()),
            18 => Op::Trim(1, self.ends[1]),
            19 => {
                let to = match self.random.below(3) {
                    0 => None,
                    1 => Some(Start::Earliest),
                    _ => Some(Start::Offset(self.offset())),
                };
                Op::Reset(group, to)
            }
            20 => Op::Create(
                self.random
                    .pick::<&str>(&["invoices", "returns", "a third one"]),
            ),
            _ => Op::Reopen,
        }
    }

    /// An append to one partition or to both; now and then so large that the file has to grow.
    fn append(&mut self, most: usize) -> Arc<Bodies> {
        self.number += 1;
        let partitions = match self.random.below(4) {
            0 => vec![0, 1],
            1 => vec![1],
            _ => vec![0],
        };
        let mut rows = Vec::new();
        for partition in partitions {
            let len = match self.random.below(12) {
                0 => 20_000,
                1 if self.random.one_in(3) => 400_000,
                _ => self.random.below(200),
            };
            let count = 1 + self.random.below(most);
            let bodies = (0..count).map(|index| {
                let fill = "x".repeat(len / count);
                format!("{}.{partition}.{index} {fill}", self.number)
            });
            rows.push((partition, bodies.collect()));
            self.ends[partition as usize] += count as u64;
        }
        Arc::new(Bodies {
            id: self.number,
            rows,
            done: None,
        })
    }

    fn offset(&mut self) -> u64 {
        self.random.below(self.ends[0] as usize + 1) as u64
    }

    /// An offset to trim at, where what goes does not depend on the order of what was appended at the same
    /// time: whole batches are trimmed.
    fn cut(&mut self) -> u64 {
        let offset = self.offset();
        let within = self.unordered.iter().find(|range| range.contains(&offset));
        within.map_or(offset, |range| range.start)
    }

    fn range(&mut self) -> Range<u64> {
        let start = self.offset();
        start..(start + self.random.below(5) as u64).min(self.ends[0])
    }

    fn attempts(&mut self) -> Vec<(u64, u32)> {
        let count = self.random.below(3);
        let offsets: std::collections::BTreeSet<u64> = (0..count).map(|_| self.offset()).collect();
        offsets.into_iter().map(|offset| (offset, 2)).collect()
    }
}

/// Who has which lease, as far as the answers tell.
#[derive(Clone, Default)]
pub(super) struct Leases(BTreeMap<&'static str, Lease>);

impl Leases {
    /// Does the operation, unless it is [`Op::Reopen`]; again under the same id after an error.
    pub(super) async fn apply(&mut self, storage: &RedbStorage, op: &Op) -> Result<()> {
        match op {
            Op::Create(stream) => {
                let stream = name(stream);
                let created = storage.create_stream(&stream, Some(PARTITIONS));
                created.await.map(drop)
            }
            Op::Append(bodies) => self.append(storage, bodies).await,
            Op::Together(all) => {
                let appends = all.iter().map(|bodies| self.append(storage, bodies));
                join_all(appends).await.into_iter().collect()
            }
            Op::Group(of, start) => storage.create_group(&group(of), *start).await,
            Op::Claim(of, owner) => {
                let seen = observe(storage, of).await?;
                let over = Some((seen.epoch, seen.generation));
                let state = storage.claim(claim(group(of), *owner, over)).await?;
                assert_eq!(state.owner, Some(Id(*owner)));
                let lease = Lease {
                    group: group(of),
                    owner: Id(*owner),
                    epoch: state.epoch,
                };
                self.0.insert(of, lease);
                Ok(())
            }
            Op::Commit(of, done, attempts) => {
                let done: Ranges = done.iter().cloned().collect();
                let attempts = attempts.clone();
                let verdicts = Verdicts { done, attempts };
                match storage.commit(&self.0[of], &verdicts).await {
                    // It was released or reset before.
                    Err(error) if error.is_fenced() => Ok(()),
                    other => other.map(drop),
                }
            }
            Op::Release(of) => storage.release(&self.0[of]).await,
            Op::Settle(id) => {
                assert_eq!(storage.settle(Id(*id), &[]).await?, None);
                Ok(())
            }
            Op::Trim(index, before) => storage.trim(&partition(*index), *before).await.map(drop),
            Op::Reset(of, to) => {
                let reset = Reset {
                    group: group(of),
                    to: *to,
                    is_forced: true,
                };
                storage.reset(reset).await.map(drop)
            }
            Op::Reopen => unreachable!("not an operation of a storage"),
        }
    }

    async fn append(&self, storage: &RedbStorage, bodies: &Bodies) -> Result<()> {
        let done = bodies.done.iter();
        let commits = done.map(|(of, range)| (self.0[of].clone(), Ranges::from(range.clone())));
        let append = bodies.append(commits.collect());
        match storage.append(append).await? {
            Appended::Fenced(_) => Ok(()),
            Appended::Refused | Appended::Early => {
                panic!("{} was never settled, and follows none", bodies.id)
            }
            // Known, where the one before was in doubt.
            appended => {
                let bases = appended.bases().map(|bases| bases.len());
                assert_eq!(bases, Some(bodies.rows.len()));
                Ok(())
            }
        }
    }
}

impl Bodies {
    pub(super) fn append(&self, commits: Vec<(Lease, Ranges)>) -> Arc<Append> {
        let rows = self.rows.iter().map(|(index, bodies)| {
            let messages: Vec<Message> = bodies.iter().cloned().map(Message::new).collect();
            let builder: RecordsBuilder = messages.iter().collect();
            Row {
                partition: partition(*index),
                records: builder.build().unwrap(),
            }
        });
        Arc::new(Append {
            id: Id(self.id),
            after: None,
            rows: rows.collect(),
            commits,
        })
    }
}

async fn observe(storage: &RedbStorage, of: &str) -> Result<GroupState> {
    Ok(storage.observe(&[group(of)]).await?.remove(0).unwrap())
}

/// All that a storage holds, except when it was appended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) logs: Vec<(Range<u64>, Vec<String>)>,
    pub(super) groups: BTreeMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) owner: Option<Id>,
    pub(super) epoch: u64,
    pub(super) generation: u64,
    pub(super) progress: Progress,
    pub(super) attempts: Vec<(u64, u32)>,
}

impl Contents {
    pub(super) async fn of(storage: &RedbStorage) -> Result<Self> {
        let mut state = Self::default();
        for index in 0..PARTITIONS {
            let bounds = match storage.bounds(&[partition(index)]).await {
                Ok(mut bounds) => bounds.remove(0),
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(state),
                Err(error) => return Err(error),
            };
            let read = Read {
                partition: partition(index),
                from: 0,
                max_bytes: usize::MAX,
                group: None,
            };
            let fetched = storage.read(read).await?;
            assert_eq!(fetched.bounds, bounds);
            // A batch is trimmed as a whole.
            let mut next = bounds.start;
            let mut bodies = Vec::new();
            for batch in &fetched.batches {
                assert_eq!(batch.base_offset, next, "no gap");
                next = batch.offsets().end;
                let messages = (0..batch.records.len()).map(|i| batch.records.message(i));
                bodies.extend(messages.map(|m| String::from_utf8(m.body().to_vec()).unwrap()));
            }
            assert_eq!(next, bounds.end, "no gap at the end");
            state.logs.push((bounds, bodies));
        }
        let groups = storage.groups(Some(&name("orders"))).await?;
        for (group, seen) in groups.iter().zip(storage.observe(&groups).await?) {
            let seen = seen.unwrap();
            let member = Member {
                owner: seen.owner,
                epoch: seen.epoch,
                generation: seen.generation,
                progress: seen.progress,
                attempts: seen.attempts,
            };
            state.groups.insert(group.to_string(), member);
        }
        Ok(state)
    }

    /// Whether this holds all of `earlier`, and nothing that is not in `later`, in the same order.
    pub(super) fn is_between(&self, earlier: &Self, later: &Self) -> bool {
        let begins = |log: &(Range<u64>, Vec<String>), with: &(Range<u64>, Vec<String>)| {
            log.0.start == with.0.start && log.1.starts_with(&with.1)
        };
        self.logs.len() == earlier.logs.len()
            && self.groups == earlier.groups
            && std::iter::zip(&self.logs, &earlier.logs).all(|(own, early)| begins(own, early))
            && std::iter::zip(&later.logs, &self.logs).all(|(late, own)| begins(late, own))
    }
}
