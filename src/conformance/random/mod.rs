//! Random calls, compared with the model.

use std::sync::Arc;

use bytes::Bytes;

use super::Harness;
use super::build::name;
use super::generator::Random;
use super::model::Model;
use super::support::Subject;
use crate::storage::{Append, Group, Lease, Partition, Start};

mod calls;
mod operators;

const SEEDS: std::ops::Range<u64> = 0..6;
const STEPS: u32 = 300;

pub(super) async fn random_calls_do_what_the_contract_says(harness: Arc<dyn Harness>) {
    let mut subject = Subject::new(harness);
    for seed in SEEDS {
        Run::new(&mut subject, seed).await.steps(None).await;
    }
}

pub(super) async fn random_calls_with_restarts_do_what_the_contract_says(
    harness: Arc<dyn Harness>,
) {
    let mut subject = Subject::new(harness);
    if !subject.reopen().await {
        return;
    }
    for seed in SEEDS {
        // Others than without restarts.
        Run::new(&mut subject, 1_000 + seed)
            .await
            .steps(Some(25))
            .await;
    }
}

/// The calls of one seed. Each has streams of its own.
struct Run<'a> {
    subject: &'a mut Subject,
    model: Model,
    random: Random,
    seed: u64,
    /// The last calls, for the report of a failure.
    calls: Vec<String>,
    partitions: Vec<Partition>,
    groups: Vec<Group>,
    appends: Vec<Arc<Append>>,
    leases: Vec<Lease>,
    /// Whether the storage was, since the run began.
    reopened: bool,
}

impl<'a> Run<'a> {
    async fn new(subject: &'a mut Subject, seed: u64) -> Self {
        let mut partitions = subject.partitions(&format!("a{seed}"), 2).await;
        partitions.push(subject.partition(&format!("b{seed}")).await);
        let mut model = Model::default();
        let mut groups = Vec::new();
        for (partition, group, start, position) in [
            (0, "g", Start::Earliest, 0),
            (0, "h", Start::Offset(3), 3),
            (1, "g", Start::Latest, 0),
            (2, "g", Start::Earliest, 0),
        ] {
            let group = Group {
                partition: partitions[partition].clone(),
                name: name(group),
            };
            let created = subject.create_group(&group, start).await;
            created.expect("a group is created");
            model.create_group(&group, position);
            groups.push(group);
        }
        for partition in &partitions {
            model.logs.entry(partition.clone()).or_default();
        }
        Self {
            subject,
            model,
            random: Random(seed),
            seed,
            calls: Vec::new(),
            partitions,
            groups,
            appends: Vec::new(),
            leases: Vec::new(),
            reopened: false,
        }
    }

    async fn steps(mut self, reopen: Option<u32>) {
        for step in 1..=STEPS {
            self.step().await;
            if reopen.is_some_and(|every| step % every == 0) {
                self.calls.push("reopen".into());
                self.subject.reopen().await;
                self.reopened = true;
            }
            self.compare_groups().await;
        }
        self.compare_logs().await;
    }

    async fn compare_groups(&mut self) {
        let groups: Vec<Group> = self.model.groups.keys().cloned().collect();
        let states = self.subject.observe(&groups).await;
        let states = states.unwrap_or_else(|error| self.fail(&error.to_string()));
        if let Err(text) = self.model.check(&states) {
            self.fail(&text);
        }
    }

    async fn compare_logs(&self) {
        for (partition, log) in &self.model.logs {
            let stored: Vec<Bytes> = self
                .subject
                .log(partition)
                .await
                .into_iter()
                .map(|(_, body)| body)
                .collect();
            let expected: Vec<Bytes> = log
                .from(0)
                .flat_map(|(_, bodies)| bodies)
                .cloned()
                .collect();
            self.same(&stored, &expected);
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, stored: &T, expected: &T) {
        if stored != expected {
            self.fail(&format!(
                "the contract says {expected:?}, the storage {stored:?}"
            ));
        }
    }

    fn fail(&self, text: &str) -> ! {
        panic!("{}", self.report(text))
    }

    fn report(&self, text: &str) -> String {
        let last = self.calls.len().saturating_sub(12);
        format!(
            "{text}\nin call {} of the seed {}, after:\n  {}",
            self.calls.len(),
            self.seed,
            self.calls[last..].join("\n  ")
        )
    }
}
