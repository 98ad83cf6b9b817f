//! The handle that makes producers and consumers.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::consumer::ConsumerBuilder;
use crate::context::Context;
use crate::error::{Error, ErrorKind, Result};
use crate::message::Message;
use crate::name::Name;
use crate::producer::ProducerBuilder;
use crate::storage::{Group, GroupState, Partition, Read};
use crate::suggest::did_you_mean;

/// An open storage: makes producers and consumers, and answers questions about streams and groups.
/// Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Flowstream(Arc<Context>);

impl Flowstream {
    pub(crate) fn new(context: Context) -> Self {
        Self(Arc::new(context))
    }

    pub(crate) fn context(&self) -> &Context {
        &self.0
    }

    /// A producer for a stream, which is made with one partition if it is not there.
    ///
    /// Await the builder. Fails as [`Invalid`](ErrorKind::Invalid) for a bad name.
    pub fn producer(&self, stream: impl Into<String>) -> ProducerBuilder {
        ProducerBuilder::new(self.0.clone(), stream.into())
    }

    /// A consumer of a stream for a group. Both are made if they are not there; a new group begins
    /// at the [start](ConsumerBuilder::start) that the builder says, with the earliest message by
    /// default.
    ///
    /// Await the builder. Fails as [`Invalid`](ErrorKind::Invalid) for a bad name.
    pub fn consumer(&self, stream: impl Into<String>, group: impl Into<String>) -> ConsumerBuilder {
        ConsumerBuilder::new(self.0.clone(), stream.into(), group.into())
    }

    /// Makes a stream with so many partitions. One that is there stays as it is.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a bad name, for no partition or more than 10,000, and
    /// for a stream that is there with another number of partitions.
    pub async fn create_stream(&self, stream: impl AsRef<str>, partitions: u32) -> Result<()> {
        let stream = Name::new(stream)?;
        if !(1..=10_000).contains(&partitions) {
            return Err(Error::invalid(format!(
                "the stream {stream} cannot have {partitions} partitions: give it 1 to 10,000"
            )));
        }
        let settings = self.0.create_stream(&stream, Some(partitions)).await?;
        if settings.partitions != partitions {
            return Err(Error::invalid(format!(
                "the stream {stream} is there already, and its number of partitions is {} instead of \
                 {partitions}, and stays: make another one, or ask for as many",
                settings.partitions
            )));
        }
        Ok(())
    }

    /// Where each partition of a stream starts and ends: the offsets that are in the log.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream.
    pub async fn bounds(&self, stream: impl AsRef<str>) -> Result<Vec<Range<u64>>> {
        let partitions = self.0.partitions(&Name::new(stream)?).await?;
        let storage = self.0.storage();
        self.0.retry(|| storage.bounds(&partitions)).await
    }

    /// How a group stands in each partition of a stream.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or group.
    pub async fn group(
        &self,
        stream: impl AsRef<str>,
        group: impl AsRef<str>,
    ) -> Result<Vec<GroupState>> {
        let name = Name::new(group)?;
        let groups: Vec<Group> = self
            .0
            .partitions(&Name::new(stream)?)
            .await?
            .into_iter()
            .map(|partition| Group {
                partition,
                name: name.clone(),
            })
            .collect();
        let states = self.0.retry(|| self.0.storage().observe(&groups)).await?;
        match states.into_iter().collect() {
            Some(states) => Ok(states),
            None => Err(self.no_group(&groups[0].partition.stream, &name).await),
        }
    }

    /// A group that is not there, of a stream that is: those that are, come near.
    pub(crate) async fn no_group(&self, stream: &Name, group: &Name) -> Error {
        let groups = self.0.retry(|| self.0.storage().groups(Some(stream))).await;
        let groups = groups.unwrap_or_default();
        let names = groups.iter().map(|group| group.name.as_str());
        let text = format!(
            "there is no group {group} of the stream {stream}: a consumer makes it{}",
            did_you_mean(group.as_str(), names)
        );
        Error::new(ErrorKind::NotFound, text)
    }

    /// Reads a page of a partition without a group: messages with their offsets, from the offset
    /// `from` on, about 1 MiB of them. An empty page is the end of the log.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or partition, and
    /// [`Data`](ErrorKind::Data) if the log is damaged there.
    pub async fn read(
        &self,
        stream: impl AsRef<str>,
        partition: u32,
        from: u64,
    ) -> Result<Vec<(u64, Message)>> {
        let read = Read {
            partition: Partition {
                stream: Name::new(stream)?,
                index: partition,
            },
            from,
            max_bytes: 1 << 20,
            group: None,
        };
        let mut fetched = self.0.retry(|| self.0.storage().read(read.clone())).await?;
        let first = from.max(fetched.bounds.start);
        if fetched.cut_at_gap(first) {
            let text = format!(
                "{}: the message at offset {first} is missing in the log, though there are later ones: \
                 restore the storage from a backup, or read on behind it",
                read.partition
            );
            return Err(Error::new(ErrorKind::Data, text));
        }
        let batches = fetched.batches.iter();
        Ok(batches
            .flat_map(|batch| {
                batch
                    .offsets()
                    .zip(0..)
                    .map(|(at, i)| (at, batch.records.message(i)))
            })
            .filter(|(offset, _)| *offset >= from)
            .collect())
    }

    /// Deletes the messages of a partition before the offset `before`, as far as whole batches go,
    /// and gives the offset where the log starts now. A group that had not done them gets an
    /// [`OutOfRange`](ErrorKind::OutOfRange) error once and goes on behind.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or partition.
    pub async fn trim(&self, stream: impl AsRef<str>, partition: u32, before: u64) -> Result<u64> {
        let partition = Partition {
            stream: Name::new(stream)?,
            index: partition,
        };
        self.0
            .retry(|| self.0.storage().trim(&partition, before))
            .await
    }

    /// Ends everything: shuts down all consumers that were made by this handle and its clones, and
    /// waits for each, at most as [`shutdown`](crate::Control::shutdown) does; then refuses what is
    /// appended ([`Closed`](ErrorKind::Closed), and the messages come back), waits for the appends that
    /// are under way, and lets go of the storage, so that another process can open the file. It is all
    /// that ends a program.
    ///
    /// Messages that a producer holds and has not flushed stay there. Without it, the storage closes when the last handle, producer,
    /// consumer and delivery is gone.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it is ready, the consumers are shut down all the same, and a second call goes
    /// on from there.
    pub async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

impl fmt::Debug for Flowstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Flowstream").field(self.0.storage()).finish()
    }
}
