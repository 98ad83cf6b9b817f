//! How refusals read: once for all storages of this crate.

use crate::error::{Error, ErrorKind};
use crate::storage::{Group, Id, Lease, Partition};
use crate::suggest::did_you_mean;

/// How many names before and behind a missing one are looked at, for those that come near: a bound on
/// what an error costs.
pub(in crate::storage) const NEIGHBOURS: usize = 500;

/// A partition that is not there, where nothing else is known.
#[cfg(feature = "postgres")]
pub(in crate::storage) fn no_partition(partition: &Partition) -> Error {
    let Partition { stream, index } = partition;
    let text = format!(
        "there is no partition {index} of a stream {stream}: create_stream makes a stream with as many \
         as it is to have"
    );
    Error::new(ErrorKind::NotFound, text)
}

/// A partition that is not there, though its stream may be, with so many; and the names of others.
pub(in crate::storage) fn missing<'a>(
    partition: &Partition,
    partitions: Option<u32>,
    others: impl Iterator<Item = &'a str>,
) -> Error {
    let Partition { stream, index } = partition;
    let text = match partitions {
        Some(1) => format!(
            "the stream {stream} has one partition: there is no partition {index}, they count from 0"
        ),
        Some(partitions) => format!(
            "the stream {stream} has {partitions} partitions: there is no partition {index}, they count \
             from 0"
        ),
        None => format!(
            "there is no stream {stream}: a producer, a consumer or create_stream makes it{}",
            did_you_mean(stream.as_str(), others)
        ),
    };
    Error::new(ErrorKind::NotFound, text)
}

pub(in crate::storage) fn no_group(group: &Group) -> Error {
    let text = format!("there is no {group}: a consumer makes it");
    Error::new(ErrorKind::NotFound, text)
}

pub(crate) fn active(group: &Group) -> Error {
    Error::invalid(format!(
        "{group} is active: stop its consumers first, or force it, which fences them \
         (ResetBuilder::force)"
    ))
}

pub(in crate::storage) fn fenced(lease: &Lease) -> Error {
    let text = format!(
        "{} is no longer at epoch {} of this owner: its lease was taken over or given back, and \
         nothing was written",
        lease.group, lease.epoch
    );
    Error::new(ErrorKind::Fenced, text)
}

pub(in crate::storage) fn forgotten(id: Id) -> Error {
    let text = format!(
        "whether the append {id} was written can no longer be told: too many came after it; \
         compare the messages with the log"
    );
    Error::new(ErrorKind::OutOfRange, text)
}

pub(crate) fn closed() -> Error {
    Error::closed("the storage was closed: open it again, or close it later")
}
