//! Groups and leases.

use std::sync::Arc;

use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::columns::{Reader, encode_ranges, nonsense, not_understood};
use super::core::Core;
use super::gate::Pass;
use super::log::{as_bigint, slices};
use super::piece::MOST_ROWS;
use super::sqlstate::PROGRAM_LIMIT_EXCEEDED;
use super::tell::tell;
use super::value::Value;
use crate::clock::to_micros;
use crate::error::Result;
use crate::storage::group::{active, fenced, no_group};
use crate::storage::{
    Claim, Group, GroupState, Lease, Name, Notification, Partition, Progress, Reset, Start,
    Verdicts,
};

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
    /// What the server can count.
    const LONG_AGO: i64 = -62_000_000_000_000_000;
    const FAR_OFF: i64 = 250_000_000_000_000_000;
    match start {
        Start::Earliest => ("earliest", 0, 0),
        Start::Latest => ("latest", 0, 0),
        Start::Offset(offset) => ("offset", as_bigint(offset), 0),
        Start::Time(time) => ("time", 0, to_micros(time).clamp(LONG_AGO, FAR_OFF)),
    }
}

impl Core {
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
        let rows = self
            .run(&self.aside, &self.sql.create_group, &values)
            .await?;
        let row = rows.first().ok_or_else(not_understood)?;
        match Reader::new(row).bool()? {
            true => Ok(()),
            false => Err(self.missing(&group.partition).await),
        }
    }

    pub(super) async fn observe(&self, groups: &[Group]) -> Result<Vec<Option<GroupState>>> {
        let mut states = vec![None; groups.len()];
        for (groups, states) in slices(groups, &mut states) {
            let (streams, partitions) =
                super::append::arrays(groups.iter().map(|group| group.partition.clone()));
            let names: Vec<String> = groups.iter().map(|g| g.name.as_str().to_owned()).collect();
            let values = [
                Value::Texts(&streams),
                Value::Ints(&partitions),
                Value::Texts(&names),
            ];
            for row in &self.run(&self.leases, &self.sql.observe, &values).await? {
                let mut columns = Reader::new(row);
                let place = columns.numbered(states)?;
                *place = Some(columns.state(&self.sightings)?);
            }
        }
        Ok(states)
    }

    pub(super) async fn claim(&self, claim: &Claim) -> Result<GroupState> {
        let over = claim.over;
        let member = self.listening.member().await;
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
        let rows = self.run(&self.leases, &self.sql.claim, &values).await?;
        let row = rows.first().ok_or_else(|| no_group(&claim.group))?;
        let mut columns = Reader::new(row);
        let (is_fresh, state) = (columns.bool()?, columns.state(&self.sightings)?);
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
            let rows = self.run(&self.pool, &self.sql.groups, &values).await?;
            let page = rows.iter().map(group);
            groups.extend(page.collect::<Result<Vec<Group>>>()?);
            if rows.len() < MOST_ROWS {
                return Ok(groups);
            }
        }
    }

    pub(super) async fn reset(self: &Arc<Self>, reset: &Reset, pass: &Pass) -> Result<GroupState> {
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
        let rows = self.run(&self.leases, &self.sql.reset, &values).await?;
        let row = rows.first().ok_or_else(|| no_group(&reset.group))?;
        let mut columns = Reader::new(row);
        let (is_fresh, is_done) = (columns.bool()?, columns.bool()?);
        if !is_done {
            return Err(active(&reset.group));
        }
        let partition = reset.group.partition.clone();
        tell(self, pass, vec![Notification::Released(partition)]);
        match is_fresh {
            true => columns.state(&self.sightings),
            false => self.look_again(&reset.group).await,
        }
    }

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
        if offsets.is_empty() && self.may_be_alone(&self.leases, &self.commits_alone) {
            let without_attempts = &values[..values.len() - 2];
            let commit = self.run(&self.leases, &self.sql.commit_fast, without_attempts);
            if let Some(row) = commit.await?.first() {
                return Reader::new(row).committed();
            }
            self.commits_alone.was_not();
        }
        let rows = self.run(&self.leases, &self.sql.commit, &values).await?;
        let row = rows.first().ok_or_else(|| fenced(lease))?;
        Reader::new(row).committed()
    }

    pub(super) async fn release(&self, lease: &Lease) -> Result<()> {
        let released = Notification::Released(lease.group.partition.clone());
        let text = self.teller.text(&released);
        let values = |text| {
            of(
                &lease.group,
                [
                    Value::Id(Uuid::from_u128(lease.owner.0)),
                    Value::Bigint(as_bigint(lease.epoch)),
                    Value::Text(&self.schema),
                    Value::OptionalText(text),
                ],
            )
        };
        let (leases, release) = (&self.leases, &self.sql.release);
        let released_so = self.try_run(leases, release, &values(Some(&text))).await;
        let rows = match released_so {
            // The queue of notifications is full: nobody is told, and who waits looks by itself.
            Err(fail) if fail.has_code(PROGRAM_LIMIT_EXCEEDED) => {
                self.run(leases, release, &values(None)).await?
            }
            rows => rows.map_err(|fail| self.explain(fail, release))?,
        };
        let row = rows.first().ok_or_else(not_understood)?;
        if Reader::new(row).bool()? {
            self.teller.tell_here([released]);
        }
        Ok(())
    }
}
