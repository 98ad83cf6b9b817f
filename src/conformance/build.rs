//! What the checks give to a storage.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::message::Message;
use crate::storage::{
    Append, Claim, Group, Id, Lease, Name, Over, Partition, Ranges, Read, Records, RecordsBuilder,
    Row, Verdicts,
};

pub(super) fn name(name: &str) -> Name {
    Name::new(name).expect("a name that is allowed")
}

pub(super) fn records<B: Into<Bytes>>(bodies: impl IntoIterator<Item = B>) -> Records {
    let messages: Vec<Message> = bodies.into_iter().map(Message::new).collect();
    let builder: RecordsBuilder = messages.iter().collect();
    builder.build().expect("a batch has a message")
}

pub(super) fn row(partition: &Partition, bodies: &[&str]) -> Row {
    Row {
        partition: partition.clone(),
        records: records(
            bodies
                .iter()
                .map(|body| Bytes::copy_from_slice(body.as_bytes())),
        ),
    }
}

pub(super) fn append<const N: usize>(rows: [Row; N]) -> Arc<Append> {
    append_with(rows, [])
}

pub(super) fn append_with<const N: usize, const M: usize>(
    rows: [Row; N],
    commits: [(&Lease, Range<u64>); M],
) -> Arc<Append> {
    let commits = commits.map(|(lease, done)| (lease.clone(), Ranges::from(done)));
    Arc::new(Append {
        id: Id::random(),
        after: None,
        rows: rows.into(),
        commits: commits.into(),
    })
}

pub(super) fn read(partition: &Partition, from: u64, max_bytes: usize) -> Read {
    Read {
        partition: partition.clone(),
        from,
        max_bytes,
        group: None,
    }
}

pub(super) fn verdicts(done: Range<u64>, attempts: &[(u64, u32)]) -> Verdicts {
    Verdicts {
        done: done.into(),
        attempts: attempts.to_vec(),
    }
}

pub(super) fn claim(group: &Group, over: Option<(u64, u64)>) -> Claim {
    Claim {
        group: group.clone(),
        owner: Id::random(),
        over: over.map(|(epoch, generation)| Over::another(epoch, generation)),
    }
}
