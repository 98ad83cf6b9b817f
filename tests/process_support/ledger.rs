//! What the database saw: each write of an owner, in the order of the database.

use std::time::Duration;

use crate::postgres_support::Cluster;

/// Keeps a copy of each row of the ledger, with the owner and the epoch at that time. Made once the
/// schema is there, before there is a group. The writes of a group are in order: each holds the lock
/// of its lease.
const AUDIT: &str = "
    CREATE SCHEMA audit;
    CREATE TABLE audit.writes (
        n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream text, name text, generation bigint, epoch bigint, owner uuid, position bigint, acked text,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO audit.writes (stream, name, generation, epoch, owner, position, acked)
            SELECT s.name, l.name, new.generation, l.epoch, l.owner, new.position, new.acked::text
            FROM flowstream.leases l JOIN flowstream.streams s USING (stream_id)
            WHERE l.group_id = new.group_id;
        RETURN NULL;
    END $$;
    CREATE TRIGGER audit AFTER INSERT ON flowstream.positions
        FOR EACH ROW EXECUTE FUNCTION audit.note();
";

/// One generation of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub generation: u64,
    pub epoch: u64,
    /// Empty where the lease was free afterwards.
    pub owner: String,
    pub position: u64,
    /// Done beyond the position: from, to.
    pub acked: Vec<(u64, u64)>,
    /// By the clock of the server.
    pub at: Duration,
}

impl Write {
    pub fn is_done(&self, offset: u64) -> bool {
        let acked = |(from, to): &(u64, u64)| (*from..*to).contains(&offset);
        offset < self.position || self.acked.iter().any(acked)
    }
}

/// Begins to keep what the database sees.
pub fn keep(cluster: &Cluster, database: &str) {
    cluster.psql(database, AUDIT);
}

/// The writes of a group, the first of which made it.
pub fn writes(cluster: &Cluster, database: &str, stream: &str, group: &str) -> Vec<Write> {
    let rows = cluster.psql(
        database,
        &format!(
            "SELECT generation, epoch, owner, position, acked,
                (extract(epoch FROM at) * 1000000)::bigint
             FROM audit.writes WHERE stream = '{stream}' AND name = '{group}' ORDER BY n"
        ),
    );
    rows.lines().map(decode).collect()
}

fn decode(row: &str) -> Write {
    let mut columns = row.split('|');
    let mut next = || columns.next().expect("a column");
    let number = |text: &str| text.parse().expect("a number");
    Write {
        generation: number(next()),
        epoch: number(next()),
        owner: next().to_owned(),
        position: number(next()),
        // {[5,7),[9,10)}
        acked: {
            let ranges = next().trim_matches(|c| "{[)}".contains(c));
            let ranges = ranges.split("),[").filter(|range| !range.is_empty());
            let range = |range: &str| {
                let (from, to) = range.split_once(',').expect("a range");
                (number(from), number(to))
            };
            ranges.map(range).collect()
        },
        at: Duration::from_micros(number(next())),
    }
}
