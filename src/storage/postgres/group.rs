//! Groups and leases.

use std::sync::Arc;

use uuid::Uuid;

use super::columns::{Reader, encode_ranges, not_understood};
use super::core::{Core, Filled};
use super::gate::Pass;
use super::log::as_bigint;
use super::tell::tell;
use crate::clock::to_micros;
use crate::error::Result;
use crate::storage::group::{fenced, no_group, no_partition};
use crate::storage::{Claim, Group, GroupState, Lease, Notification, Progress, Ranges, Start};

fn bind_group<'q>(query: Filled<'q>, group: &Group) -> Filled<'q> {
    query
        .bind(group.partition.stream.as_str().to_owned())
        .bind(group.partition.index as i32)
        .bind(group.name.as_str().to_owned())
}

fn bind_lease<'q>(query: Filled<'q>, lease: &Lease) -> Filled<'q> {
    bind_group(query, &lease.group)
        .bind(Uuid::from_u128(lease.owner.0))
        .bind(as_bigint(lease.epoch))
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
        let rows = self
            .run(&self.pool, &self.sql.create_group, |query| {
                bind_group(query, group)
                    .bind(place)
                    .bind(offset)
                    .bind(time(start))
            })
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
        let rows = self
            .run(&self.leases, &self.sql.observe, |query| {
                query.bind(&streams).bind(&partitions).bind(&names)
            })
            .await?;
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
        let rows = self
            .run(&self.leases, &self.sql.claim, |query| {
                bind_group(query, &claim.group)
                    .bind(Uuid::from_u128(claim.owner.0))
                    .bind(epoch.map(as_bigint))
                    .bind(generation.map(as_bigint))
            })
            .await?;
        let row = rows.first().ok_or_else(|| no_group(&claim.group))?;
        Reader::new(row).state()
    }

    pub(super) async fn commit(&self, lease: &Lease, done: &Ranges) -> Result<Progress> {
        let done = encode_ranges(done);
        let rows = self
            .run(&self.leases, &self.sql.commit, |query| {
                bind_lease(query, lease).bind(&done)
            })
            .await?;
        let row = rows.first().ok_or_else(|| fenced(lease))?;
        Reader::new(row).progress()
    }

    pub(super) async fn release(self: &Arc<Self>, lease: &Lease, pass: &Pass) -> Result<()> {
        let rows = self
            .run(&self.leases, &self.sql.release, |query| {
                bind_lease(query, lease)
            })
            .await?;
        let row = rows.first().ok_or_else(not_understood)?;
        if Reader::new(row).bool()? {
            let partition = lease.group.partition.clone();
            tell(self, pass, vec![Notification::Released(partition)]);
        }
        Ok(())
    }
}
