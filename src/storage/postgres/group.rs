//! Groups and leases.

use std::sync::Arc;

use uuid::Uuid;

use super::columns::{Reader, encode_ranges, not_understood};
use super::core::Core;
use super::gate::Pass;
use super::log::as_bigint;
use super::tell::tell;
use super::value::Value;
use crate::clock::to_micros;
use crate::error::Result;
use crate::storage::group::{fenced, no_group, no_partition};
use crate::storage::{Claim, Group, GroupState, Lease, Notification, Progress, Ranges, Start};

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

/// What the server can count, in microseconds.
fn time(start: Start) -> i64 {
    const LONG_AGO: i64 = -62_000_000_000_000_000;
    const FAR_OFF: i64 = 250_000_000_000_000_000;
    match start {
        Start::Time(time) => to_micros(time).clamp(LONG_AGO, FAR_OFF),
        _ => 0,
    }
}

impl Core {
    pub(super) async fn create_group(&self, group: &Group, start: Start) -> Result<()> {
        let (place, offset) = match start {
            Start::Earliest => ("earliest", 0),
            Start::Latest => ("latest", 0),
            Start::Offset(offset) => ("offset", as_bigint(offset)),
            Start::Time(_) => ("time", 0),
        };
        let values = of(
            group,
            [
                Value::Text(place),
                Value::Bigint(offset),
                Value::Bigint(time(start)),
            ],
        );
        let rows = self
            .run(&self.pool, &self.sql.create_group, &values)
            .await?;
        let row = rows.first().ok_or_else(not_understood)?;
        match Reader::new(row).bool()? {
            true => Ok(()),
            false => Err(no_partition(&group.partition)),
        }
    }

    pub(super) async fn observe(&self, groups: &[Group]) -> Result<Vec<Option<GroupState>>> {
        let (streams, partitions) =
            super::append::arrays(groups.iter().map(|group| group.partition.clone()));
        let names: Vec<String> = groups.iter().map(|g| g.name.as_str().to_owned()).collect();
        let values = [
            Value::Texts(&streams),
            Value::Ints(Some(&partitions)),
            Value::Texts(&names),
        ];
        let rows = self.run(&self.leases, &self.sql.observe, &values).await?;
        let mut states = vec![None; groups.len()];
        for row in &rows {
            let mut columns = Reader::new(row);
            let place = columns.numbered(&mut states)?;
            *place = Some(columns.state()?);
        }
        Ok(states)
    }

    pub(super) async fn claim(&self, claim: &Claim) -> Result<GroupState> {
        let (epoch, generation) = claim.over.unzip();
        let values = of(
            &claim.group,
            [
                Value::Id(Uuid::from_u128(claim.owner.0)),
                Value::OptionalBigint(epoch.map(as_bigint)),
                Value::OptionalBigint(generation.map(as_bigint)),
            ],
        );
        let rows = self.run(&self.leases, &self.sql.claim, &values).await?;
        let row = rows.first().ok_or_else(|| no_group(&claim.group))?;
        Reader::new(row).state()
    }

    pub(super) async fn commit(&self, lease: &Lease, done: &Ranges) -> Result<Progress> {
        let done = encode_ranges(done);
        let values = of(
            &lease.group,
            [
                Value::Id(Uuid::from_u128(lease.owner.0)),
                Value::Bigint(as_bigint(lease.epoch)),
                Value::Text(&done),
            ],
        );
        let rows = self.run(&self.leases, &self.sql.commit, &values).await?;
        let row = rows.first().ok_or_else(|| fenced(lease))?;
        Reader::new(row).progress()
    }

    pub(super) async fn release(self: &Arc<Self>, lease: &Lease, pass: &Pass) -> Result<()> {
        let values = of(
            &lease.group,
            [
                Value::Id(Uuid::from_u128(lease.owner.0)),
                Value::Bigint(as_bigint(lease.epoch)),
            ],
        );
        let rows = self.run(&self.leases, &self.sql.release, &values).await?;
        let row = rows.first().ok_or_else(not_understood)?;
        if Reader::new(row).bool()? {
            let partition = lease.group.partition.clone();
            tell(self, pass, vec![Notification::Released(partition)]);
        }
        Ok(())
    }
}
