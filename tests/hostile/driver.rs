//! The driver interface with values that no caller of this crate gives.

use std::sync::Arc;

use flowstream::storage::{
    Append, Appended, Claim, Group, Id, Lease, Name, Over, Partition, Ranges, Read, RecordsBuilder,
    Row, Storage, Verdicts,
};
use flowstream::{ErrorKind, ManualClock, Message, Start};

use crate::support::{Random, STORAGES, storage};
use crate::values::{is_name, number, text, time};
use crate::{assert_no_panics, seeds, watch_panics};

pub(crate) struct Driver {
    storage: Arc<dyn Storage>,
    random: Random,
    group: Group,
    end: u64,
}

impl Driver {
    /// `storage` is new.
    pub(crate) async fn new(storage: Arc<dyn Storage>, seed: u64) -> Self {
        let stream = Name::new("known").unwrap();
        storage.create_stream(&stream, Some(2)).await.unwrap();
        let group = Group {
            partition: Partition { stream, index: 0 },
            name: Name::new("group").unwrap(),
        };
        storage.create_group(&group, Start::Earliest).await.unwrap();
        Self {
            storage,
            random: Random::new(seed),
            group,
            end: 0,
        }
    }

    fn name(&mut self) -> Name {
        loop {
            let text = text(&mut self.random);
            if is_name(&text) && text != "known" {
                return Name::new(text).unwrap();
            }
        }
    }

    /// Not there: another stream, or a partition that it has not.
    fn partition(&mut self) -> Partition {
        match self.random.one_in(2) {
            true => Partition {
                stream: self.name(),
                index: 0,
            },
            false => Partition {
                stream: self.group.partition.stream.clone(),
                index: (number(&mut self.random) as u32).max(2),
            },
        }
    }

    /// Not known.
    fn stranger(&mut self) -> Group {
        let mut group = self.group.clone();
        match self.random.one_in(2) {
            true => group.partition = self.partition(),
            false => group.name = Name::new(format!("no {}", self.random.next())).unwrap(),
        }
        group
    }

    fn append(&mut self, partition: Partition, commits: Vec<(Lease, Ranges)>) -> Arc<Append> {
        let messages = ["a", "b"].map(Message::new);
        let records = messages.iter().collect::<RecordsBuilder>().build();
        Arc::new(Append {
            id: Id::random(),
            after: None,
            rows: vec![Row {
                partition,
                records: records.unwrap(),
            }],
            commits,
        })
    }

    /// One call that must be refused, or change nothing.
    pub(crate) async fn probe(&mut self) {
        let storage = self.storage.clone();
        let state = self.state().await;
        let kind = match self.random.below(11) {
            0 => {
                let claim = Claim {
                    group: self.stranger(),
                    owner: Id(u128::from(number(&mut self.random))),
                    over: Some(Over::another(
                        number(&mut self.random),
                        number(&mut self.random),
                    )),
                };
                storage.claim(claim).await.err().map(|error| error.kind())
            }
            1 => {
                let lease = self.lease();
                let verdicts = Verdicts::from(self.range());
                let answer = storage.commit(&lease, &verdicts).await;
                assert_eq!(answer.unwrap_err().kind(), ErrorKind::Fenced);
                Some(ErrorKind::NotFound)
            }
            2 => {
                // Ok for whoever has nothing to give back.
                storage.release(&self.lease()).await.unwrap();
                Some(ErrorKind::NotFound)
            }
            3 => {
                let partition = self.partition();
                let append = self.append(partition, Vec::new());
                storage.append(append).await.err().map(|error| error.kind())
            }
            4 => {
                let (lease, range) = (self.lease(), self.range());
                let append = self.append(self.group.partition.clone(), vec![(lease, range)]);
                let answer = storage.append(append).await.unwrap();
                assert_eq!(answer, Appended::Fenced(vec![0]));
                Some(ErrorKind::NotFound)
            }
            5 => {
                let read = Read {
                    partition: self.partition(),
                    from: number(&mut self.random),
                    max_bytes: number(&mut self.random) as usize,
                    group: Some(self.name()),
                };
                storage.read(read).await.err().map(|error| error.kind())
            }
            6 => {
                let all = [self.group.partition.clone(), self.partition()];
                storage.bounds(&all).await.err().map(|error| error.kind())
            }
            7 => {
                let groups = [self.stranger(), self.group.clone(), self.stranger()];
                let seen = storage.observe(&groups).await.unwrap();
                assert!(seen[0].is_none() && seen[1].is_some() && seen[2].is_none());
                Some(ErrorKind::NotFound)
            }
            8 => {
                let start = match self.random.one_in(2) {
                    true => Start::Offset(number(&mut self.random)),
                    false => Start::Time(time(&mut self.random)),
                };
                let mut group = self.group.clone();
                group.partition = self.partition();
                let created = storage.create_group(&group, start).await;
                created.err().map(|error| error.kind())
            }
            9 => {
                let (partition, before) = (self.partition(), number(&mut self.random));
                let trimmed = storage.trim(&partition, before).await;
                trimmed.err().map(|error| error.kind())
            }
            _ => {
                // In what there is, any place and any size.
                let from = number(&mut self.random);
                let read = Read {
                    partition: self.group.partition.clone(),
                    from,
                    max_bytes: number(&mut self.random) as usize,
                    group: None,
                };
                let fetched = storage.read(read).await.unwrap();
                assert_eq!(fetched.bounds, 0..self.end);
                assert_eq!(fetched.batches.is_empty(), from >= self.end);
                Some(ErrorKind::NotFound)
            }
        };
        assert_eq!(kind, Some(ErrorKind::NotFound));
        assert_eq!(self.state().await, state, "nothing was written");
    }

    fn lease(&mut self) -> Lease {
        let group = match self.random.one_in(2) {
            true => self.group.clone(),
            false => self.stranger(),
        };
        Lease {
            group,
            owner: Id(u128::from(number(&mut self.random)) << self.random.below(65)),
            epoch: number(&mut self.random),
        }
    }

    fn range(&mut self) -> Ranges {
        let end = self.end as usize + 1;
        let (a, b) = (self.random.below(end) as u64, self.random.below(end) as u64);
        Ranges::from(a..b)
    }

    async fn state(&self) -> flowstream::GroupState {
        let groups = [self.group.clone()];
        self.storage
            .observe(&groups)
            .await
            .unwrap()
            .remove(0)
            .unwrap()
    }

    /// What is right still works.
    pub(crate) async fn go_on(&mut self) {
        let append = self.append(self.group.partition.clone(), Vec::new());
        // Asked twice under one id.
        for _ in 0..2 {
            let answer = self.storage.append(append.clone()).await.unwrap();
            assert_eq!(answer.bases(), Some(vec![self.end]));
        }
        self.end += 2;
    }
}

#[tokio::test]
async fn calls_that_nobody_makes_change_nothing() {
    watch_panics();
    for seed in seeds() {
        for url in STORAGES {
            let (storage, _dir) = storage(url, ManualClock::new()).await;
            let mut driver = Driver::new(storage, seed).await;
            for call in 0..3_000 {
                if call % 100 == 0 {
                    driver.go_on().await;
                }
                driver.probe().await;
            }
        }
    }
    assert_no_panics();
}
