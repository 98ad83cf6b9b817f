//! Finding out which transactions are over, and what became of the messages that they were to commit.

use std::collections::HashSet;

use super::super::columns::Reader;
use super::super::log::as_bigint;
use super::super::piece::MOST_ROWS;
use super::super::user::Transaction;
use super::super::value::Value;
use super::{Following, Open};
use crate::error::Result;

/// Of each that is asked for.
#[derive(Default)]
struct Asked {
    places: Vec<String>,
    xids: Vec<String>,
    streams: Vec<String>,
    partitions: Vec<i32>,
    groups: Vec<String>,
    offsets: Vec<i64>,
}

impl Asked {
    fn add(&mut self, open: &Open) {
        self.places.push(open.transaction.place.to_string());
        self.xids.push(open.transaction.xid.to_string());
        // The others have no group, and find nothing.
        let ack = open.ack.as_ref();
        let of = ack.map(|ack| &ack.group);
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        self.streams
            .push(text(of.map(|of| of.partition.stream.as_str())));
        self.partitions
            .push(of.map_or(0, |of| of.partition.index as i32));
        self.groups.push(text(of.map(|of| of.name.as_str())));
        self.offsets
            .push(ack.map_or(0, |ack| as_bigint(ack.offset)));
    }

    fn values(&self) -> [Value<'_>; 6] {
        [
            Value::Texts(&self.places),
            Value::Texts(&self.xids),
            Value::Texts(&self.streams),
            Value::Ints(&self.partitions),
            Value::Texts(&self.groups),
            Value::Bigints(&self.offsets),
        ]
    }
}

impl Following {
    /// Takes out what stands in transactions that are over; and for each message, whether it is done.
    /// Of each transaction one is asked for, however many it has, and then the rest of those that are
    /// over. What was taken out is there also after an error.
    pub(super) async fn look(&self, ended: &mut Vec<(Open, bool)>) -> Result<()> {
        let of_each = {
            let state = self.core.users.state();
            let mut seen: HashSet<&Transaction> = HashSet::new();
            let firsts = state.open.iter();
            let firsts = firsts.filter(|(_, open)| seen.insert(&open.transaction));
            firsts.map(|(number, _)| *number).collect::<Vec<u64>>()
        };
        self.ask(&of_each, ended).await?;
        let rest = {
            let over = ended.iter().map(|(open, _)| &open.transaction);
            let over: HashSet<&Transaction> = over.collect();
            let state = self.core.users.state();
            let rest = state.open.iter();
            let rest = rest.filter(|(_, open)| over.contains(&open.transaction));
            rest.map(|(number, _)| *number).collect::<Vec<u64>>()
        };
        self.ask(&rest, ended).await
    }

    async fn ask(&self, numbers: &[u64], ended: &mut Vec<(Open, bool)>) -> Result<()> {
        let core = &self.core;
        for numbers in numbers.chunks(MOST_ROWS) {
            let mut asked = Asked::default();
            let mut numbers = numbers.to_vec();
            {
                let state = core.users.state();
                numbers.retain(|number| state.open.contains_key(number));
                numbers
                    .iter()
                    .filter_map(|number| state.open.get(number))
                    .for_each(|open| asked.add(open));
            }
            let values = asked.values();
            let rows = core.run(&core.leases, &core.sql.ended_transactions, &values).await?;
            for row in &rows {
                let mut columns = Reader::new(row);
                let number = *columns.numbered(&mut numbers)?;
                let is_done = columns.bool()?;
                if let Some(open) = core.users.state().open.remove(&number) {
                    ended.push((open, is_done));
                }
            }
        }
        Ok(())
    }
}
