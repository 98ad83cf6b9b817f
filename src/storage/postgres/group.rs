//! Groups and leases.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::announcer::Announcer;
use super::arrays::partition_arrays;
use super::columns::{Reader, encode_ranges, nonsense, not_understood};
use super::executor::Executor;
use super::fast_path::FastPath;
use super::in_flight::InFlightGuard;
use super::listener::Listener;
use super::liveness::FailureDetector;
use super::log::missing_partition;
use super::pieces::{MOST_ROWS, slices};
use super::sqlstate::PROGRAM_LIMIT_EXCEEDED;
use super::statements::Statement;
use super::value::{Value, as_bigint};
use crate::clock::to_micros;
use crate::error::Result;
use crate::storage::shared::refusals::{active, fenced, no_group};
use crate::storage::{
    Claim, Group, GroupState, Lease, Name, Notification, Partition, Progress, Reset, Start,
    Verdicts,
};

/// The groups of a storage, and their leases.
pub(super) struct Groups {
    executor: Arc<Executor>,
    announcer: Arc<Announcer>,
    listener: Arc<Listener>,
    detector: Arc<FailureDetector>,
    /// Of commits: of those that found somebody in their way.
    fast_path: FastPath,
}

impl Groups {
    pub(super) fn new(
        executor: Arc<Executor>,
        announcer: Arc<Announcer>,
        listener: Arc<Listener>,
        detector: Arc<FailureDetector>,
    ) -> Self {
        Self {
            executor,
            announcer,
            listener,
            detector,
            fast_path: FastPath::default(),
        }
    }

    /// Makes a group known, which begins at that place if it is new.
    pub(super) async fn create_group(&self, group: &Group, start: Start) -> Result<()> {
        let (place, offset, time) = place(start);
        let values = of(
            group,
            [
                Value::Text(place),
                Value::Bigint(offset),
                Value::Bigint(time),
            ],
        );
        let executor = &self.executor;
        let (aside, sql) = (&executor.pools.aside, &executor.sql.create_group);
        let rows = executor.run(aside, sql, &values).await?;
        let row = rows.first().ok_or_else(not_understood)?;
        match Reader::new(row).bool()? {
            true => Ok(()),
            false => Err(missing_partition(executor, &group.partition).await),
        }
    }

    /// How these groups stand; `None` for one that is not there.
    pub(super) async fn observe(&self, groups: &[Group]) -> Result<Vec<Option<GroupState>>> {
        let mut states = vec![None; groups.len()];
        for (groups, states) in slices(groups, &mut states) {
            let partitions = groups.iter().map(|group| group.partition.clone());
            let (streams, partitions) = partition_arrays(partitions);
            let names: Vec<String> = groups.iter().map(|g| g.name.as_str().to_owned()).collect();
            let values = [
                Value::Texts(&streams),
                Value::Ints(&partitions),
                Value::Texts(&names),
            ];
            for row in &self.run(&self.executor.sql.observe, &values).await? {
                let mut columns = Reader::new(row);
                let place = columns.numbered(states)?;
                *place = Some(columns.state(&self.detector)?);
            }
        }
        Ok(states)
    }

    /// Takes a lease, if it may be taken; and how the group stands then.
    pub(super) async fn claim(&self, claim: &Claim) -> Result<GroupState> {
        let over = claim.over;
        let member = self.listener.member().await;
        let values = of(
            &claim.group,
            [
                Value::Id(Uuid::from_u128(claim.owner.0)),
                Value::OptionalId(member.map(|member| Uuid::from_u128(member.0))),
                Value::OptionalBigint(over.map(|over| as_bigint(over.epoch))),
                Value::OptionalBigint(over.map(|over| as_bigint(over.generation))),
                Value::Bool(over.is_some_and(|over| over.counts_attempt)),
            ],
        );
        let rows = self.run(&self.executor.sql.claim, &values).await?;
        let row = rows.first().ok_or_else(|| no_group(&claim.group))?;
        let mut columns = Reader::new(row);
        let (is_fresh, state) = (columns.bool()?, columns.state(&self.detector)?);
        if is_fresh || state.owner != Some(claim.owner) {
            return Ok(state);
        }
        self.look_again(&claim.group).await
    }

    /// How a group stands whose epoch has changed, where the snapshot may be older than the lock, and
    /// lack what transactions of the application did just before that. Nothing of the old epoch commits
    /// any more.
    async fn look_again(&self, group: &Group) -> Result<GroupState> {
        let states = self.observe(std::slice::from_ref(group)).await?;
        let state = states.into_iter().next().flatten();
        state.ok_or_else(|| no_group(group))
    }

    /// All groups of a stream, or of all, page by page.
    pub(super) async fn groups(&self, stream: Option<&Name>) -> Result<Vec<Group>> {
        let group = |row: &PgRow| {
            let mut columns = Reader::new(row);
            let stream = Name::new(columns.text()?).map_err(|_| nonsense())?;
            let index = columns.int()?.ok_or_else(not_understood)?;
            let index = u32::try_from(index).map_err(|_| nonsense())?;
            let name = Name::new(columns.text()?).map_err(|_| nonsense())?;
            let partition = Partition { stream, index };
            Ok(Group { partition, name })
        };
        let executor = &self.executor;
        let (log, sql) = (&executor.pools.log, &executor.sql.groups);
        let mut groups: Vec<Group> = Vec::new();
        loop {
            // Before the first, where there is none yet.
            let last = groups.last();
            let of = last.map(|last| &last.partition);
            let values = [
                Value::Bool(stream.is_none()),
                Value::Text(of.map(|of| &of.stream).or(stream).map_or("", Name::as_str)),
                Value::Int(of.map_or(-1, |of| of.index as i32)),
                Value::Text(last.map_or("", |last| last.name.as_str())),
                Value::Int(MOST_ROWS as i32),
            ];
            let rows = executor.run(log, sql, &values).await?;
            let page = rows.iter().map(group);
            groups.extend(page.collect::<Result<Vec<Group>>>()?);
            if rows.len() < MOST_ROWS {
                return Ok(groups);
            }
        }
    }

    /// Takes a lease away, and tells of it; moves the position if there is a place to move it to.
    pub(super) async fn reset(&self, reset: &Reset, guard: &InFlightGuard) -> Result<GroupState> {
        let (place, offset, time) = reset.to.map(place).unwrap_or_default();
        let values = of(
            &reset.group,
            [
                Value::OptionalText(reset.to.map(|_| place)),
                Value::Bigint(offset),
                Value::Bigint(time),
                Value::Bool(reset.is_forced),
            ],
        );
        let rows = self.run(&self.executor.sql.reset, &values).await?;
        let row = rows.first().ok_or_else(|| no_group(&reset.group))?;
        let mut columns = Reader::new(row);
        let (is_fresh, is_done) = (columns.bool()?, columns.bool()?);
        if !is_done {
            return Err(active(&reset.group));
        }
        let partition = reset.group.partition.clone();
        self.announcer
            .announce(guard, vec![Notification::Released(partition)]);
        match is_fresh {
            true => columns.state(&self.detector),
            false => self.look_again(&reset.group).await,
        }
    }

    /// Says what is done under a lease.
    pub(super) async fn commit(&self, lease: &Lease, verdicts: &Verdicts) -> Result<Progress> {
        let done = encode_ranges(&verdicts.done);
        let attempts = verdicts.attempts.iter();
        let (offsets, counts): (Vec<i64>, Vec<i32>) = attempts
            .map(|(offset, count)| (as_bigint(*offset), (*count).min(i32::MAX as u32) as i32))
            .unzip();
        let values = of(
            &lease.group,
            [
                Value::Id(Uuid::from_u128(lease.owner.0)),
                Value::Bigint(as_bigint(lease.epoch)),
                Value::Text(&done),
                Value::Bigints(&offsets),
                Value::Ints(&counts),
            ],
        );
        if offsets.is_empty() && self.may_go_fast() {
            let without_attempts = &values[..values.len() - 2];
            let commit = self.run(&self.executor.sql.commit_fast, without_attempts);
            if let Some(row) = commit.await?.first() {
                return Reader::new(row).committed();
            }
            self.fast_path.back_off();
        }
        let rows = self.run(&self.executor.sql.commit, &values).await?;
        let row = rows.first().ok_or_else(|| fenced(lease))?;
        Reader::new(row).committed()
    }

    /// Gives a lease back, and tells of it in the same transaction.
    pub(super) async fn release(&self, lease: &Lease) -> Result<()> {
        let executor = &self.executor;
        let released = Notification::Released(lease.group.partition.clone());
        let text = self.announcer.encode(&released);
        let values = |text| {
            of(
                &lease.group,
                [
                    Value::Id(Uuid::from_u128(lease.owner.0)),
                    Value::Bigint(as_bigint(lease.epoch)),
                    Value::Text(&executor.schema),
                    Value::OptionalText(text),
                ],
            )
        };
        let (leases, release) = (&executor.pools.leases, &executor.sql.release);
        let telling = values(Some(&text));
        let done = executor.try_run(leases, release, &telling);
        let rows = match done.await {
            // The queue of notifications is full: nobody is told, and who waits looks by itself.
            Err(fail) if fail.has_code(PROGRAM_LIMIT_EXCEEDED) => {
                self.run(release, &values(None)).await?
            }
            rows => rows.map_err(|fail| executor.explain(fail, release))?,
        };
        let row = rows.first().ok_or_else(not_understood)?;
        if Reader::new(row).bool()? {
            self.announcer.announce_here(released);
        }
        Ok(())
    }

    /// Whether a commit is to try the way without a function.
    fn may_go_fast(&self) -> bool {
        let leases = &self.executor.pools.leases;
        self.executor.has_settings_of_ours(leases) && self.fast_path.is_likely()
    }

    /// Runs a statement that has to do with leases.
    async fn run(&self, sql: &Statement, values: &[Value<'_>]) -> Result<Vec<PgRow>> {
        let leases = &self.executor.pools.leases;
        self.executor.run(leases, sql, values).await
    }
}

/// The values that name a group, and others.
fn of<'a, const N: usize>(group: &'a Group, others: [Value<'a>; N]) -> Vec<Value<'a>> {
    let mut values = vec![
        Value::Text(group.partition.stream.as_str()),
        Value::Int(group.partition.index as i32),
        Value::Text(group.name.as_str()),
    ];
    values.extend(others);
    values
}

/// A place in the log as the schema has it: its name, an offset, and a time in microseconds.
fn place(start: Start) -> (&'static str, i64, i64) {
    // What the server can count.
    const LONG_AGO: i64 = -62_000_000_000_000_000;
    const FAR_OFF: i64 = 250_000_000_000_000_000;
    match start {
        Start::Earliest => ("earliest", 0, 0),
        Start::Latest => ("latest", 0, 0),
        Start::Offset(offset) => ("offset", as_bigint(offset), 0),
        Start::Time(time) => ("time", 0, to_micros(time).clamp(LONG_AGO, FAR_OFF)),
    }
}
