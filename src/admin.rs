//! What operators ask of groups and do to them.

use std::fmt;
use std::future::IntoFuture;
use std::time::{Duration, SystemTime};

use futures_core::future::BoxFuture;

use crate::clock::{SystemClock, sleep};
use crate::concurrency::{MAX_CONCURRENT, join_bounded};
use crate::error::{Error, ErrorKind, Result};
use crate::flowstream::Flowstream;
use crate::name::Name;
use crate::storage::shared::refusals;
use crate::storage::{Group, GroupState, Liveness, Read, Reset, Start};

/// How much later an owner is looked at again who may be dead: one look shows nothing.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// A group at one partition, as [`Flowstream::groups`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its stream, partition and name.
    pub group: Group,
    /// Owner, epoch, position, lag.
    pub state: GroupState,
    /// When the first message that is not done was appended, by the storage's clock; `None` if all
    /// are done.
    pub pending_since: Option<SystemTime>,
}

/// So many batches are read at once, each of which may be large.
const READS: usize = 4;

impl Flowstream {
    /// The groups of a stream, or with `None` of all streams, at each of their partitions.
    ///
    /// Each group with something to do costs a read of one batch; four are read at once.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) for a bad name. A stream that is not there has no groups.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> flowstream::Result<()> {
    /// # let flow = flowstream::open("memory:").await?;
    /// for info in flow.groups(None).await? {
    ///     println!("{}: {} to do", info.group, info.state.lag());
    /// }
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
    /// ```
    pub async fn groups(&self, stream: impl Into<Option<&str>>) -> Result<Vec<GroupInfo>> {
        let stream = stream.into().map(Name::new).transpose()?;
        let groups = self
            .context()
            .retry(|| self.context().storage().groups(stream.as_ref()))
            .await?;
        let states = self
            .context()
            .retry(|| self.context().storage().observe(&groups))
            .await?;
        let infos = groups.into_iter().zip(states);
        let infos = infos.filter_map(|(group, state)| {
            Some(GroupInfo {
                group,
                state: state?,
                pending_since: None,
            })
        });
        let mut infos: Vec<GroupInfo> = infos.collect();
        let reads = infos.iter().enumerate().filter_map(|(at, info)| {
            let read = Read {
                partition: info.group.partition.clone(),
                from: info.state.next_pending()?,
                max_bytes: 1,
                group: None,
            };
            Some((at, read))
        });
        let reads: Vec<(usize, Read)> = reads.collect();
        let looks = reads
            .into_iter()
            .map(async |(at, read)| Ok((at, self.appended_at(read).await?)));
        for (at, since) in join_bounded(READS, looks).await? {
            infos[at].pending_since = since;
        }
        Ok(infos)
    }

    /// Takes the lease of a group away, at all partitions, whoever has it: the consumers are fenced,
    /// and one of them, or of those that stand by, gets it anew. For a pipeline that hangs.
    ///
    /// # Errors
    ///
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream or group.
    ///
    /// # Cancel safety
    ///
    /// Dropped halfway, some partitions are done.
    pub async fn evict(&self, stream: impl AsRef<str>, group: impl AsRef<str>) -> Result<()> {
        let groups = self.partitions_of(stream.as_ref(), group.as_ref()).await?;
        self.reset_all(groups, None, true).await.map(drop)
    }

    /// Moves a group to another place in the log, at all partitions or at one; the messages from
    /// there on reach it again, or are skipped. Refused while it is active, unless
    /// [forced](ResetBuilder::force).
    ///
    /// Await the builder.
    ///
    /// # Examples
    ///
    /// ```
    /// # async fn example() -> flowstream::Result<()> {
    /// # let flow = flowstream::open("memory:").await?;
    /// # flow.consumer("orders", "billing").await?;
    /// use flowstream::Start;
    ///
    /// flow.reset("orders", "billing", Start::Earliest).force().await?;
    /// # Ok(()) }
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
    /// ```
    pub fn reset(
        &self,
        stream: impl Into<String>,
        group: impl Into<String>,
        to: Start,
    ) -> ResetBuilder {
        ResetBuilder {
            flow: self.clone(),
            stream: stream.into(),
            group: group.into(),
            to,
            partition: None,
            is_forced: false,
        }
    }

    /// When the first batch was appended that a read gives.
    async fn appended_at(&self, read: Read) -> Result<Option<SystemTime>> {
        let fetched = self
            .context()
            .retry(|| self.context().storage().read(read.clone()))
            .await?;
        Ok(fetched.batches.first().map(|batch| batch.appended_at))
    }

    /// The group at all partitions where it is known.
    async fn partitions_of(&self, stream: &str, group: &str) -> Result<Vec<Group>> {
        let (stream, name) = (Name::new(stream)?, Name::new(group)?);
        let mut groups = self
            .context()
            .retry(|| self.context().storage().groups(Some(&stream)))
            .await?;
        groups.retain(|group| group.name == name);
        if groups.is_empty() {
            // It may be the stream that is not there.
            self.context().partitions(&stream).await?;
            return Err(self.no_group(&stream, &name).await);
        }
        Ok(groups)
    }

    /// The first of these groups that somebody holds who is not seen dead: that takes two looks, where it
    /// can be seen.
    async fn held(&self, groups: &[Group]) -> Result<Option<usize>> {
        let look = async || {
            let states = self
                .context()
                .retry(|| self.context().storage().observe(groups))
                .await?;
            let held =
                |state: &Option<GroupState>| state.as_ref().is_some_and(|state| state.is_held());
            let at = states.iter().position(held);
            let is_unknown =
                |state: &GroupState| state.is_held() && state.liveness == Liveness::Unknown;
            let is_certain = at.is_none() || states.iter().flatten().any(is_unknown);
            Ok::<_, Error>((at, is_certain))
        };
        let (at, is_certain) = look().await?;
        if is_certain {
            return Ok(at);
        }
        // Of processes, which no test can let pass.
        let clock = SystemClock::new();
        sleep(&clock, SECOND_LOOK).await;
        Ok(look().await?.0)
    }

    async fn reset_all(
        &self,
        groups: Vec<Group>,
        to: Option<Start>,
        is_forced: bool,
    ) -> Result<Vec<GroupState>> {
        let resets = groups.into_iter().map(|group| {
            self.reset_one(Reset {
                group,
                to,
                is_forced,
            })
        });
        join_bounded(MAX_CONCURRENT, resets).await
    }

    async fn reset_one(&self, reset: Reset) -> Result<GroupState> {
        self.context()
            .retry(|| self.context().storage().reset(reset.clone()))
            .await
    }
}

/// Moves a group to another place: set what differs from the defaults, then `.await`.
#[must_use = "a builder does nothing until it is awaited"]
pub struct ResetBuilder {
    flow: Flowstream,
    stream: String,
    group: String,
    to: Start,
    partition: Option<u32>,
    is_forced: bool,
}

impl ResetBuilder {
    /// At this partition only; at all of them unless set.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Even while the group is active: its consumers are fenced, and go on from the new place.
    pub fn force(mut self) -> Self {
        self.is_forced = true;
        self
    }
}

impl IntoFuture for ResetBuilder {
    /// How the group stands then, at each partition. The error is
    /// [`NotFound`](ErrorKind::NotFound) if there is no such stream, partition or group, and
    /// [`Invalid`](ErrorKind::Invalid) if it is active and the reset is not forced.
    type Output = Result<Vec<GroupState>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let flow = &self.flow;
            let mut groups = flow.partitions_of(&self.stream, &self.group).await?;
            if let Some(index) = self.partition {
                let partitions = groups.len();
                groups.retain(|group| group.partition.index == index);
                if groups.is_empty() {
                    let (stream, group) = (&self.stream, &self.group);
                    let text = format!(
                        "group {group} of the stream {stream} has no partition {index}: it has \
                         {partitions}, and they count from 0"
                    );
                    return Err(Error::new(ErrorKind::NotFound, text));
                }
            }
            if !self.is_forced {
                // All are looked at before the first is moved.
                if let Some(at) = flow.held(&groups).await? {
                    return Err(refusals::active(&groups[at]));
                }
            }
            flow.reset_all(groups, Some(self.to), self.is_forced).await
        })
    }
}

impl fmt::Debug for ResetBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResetBuilder")
            .field("stream", &self.stream)
            .field("group", &self.group)
            .field("to", &self.to)
            .field("partition", &self.partition)
            .field("force", &self.is_forced)
            .finish_non_exhaustive()
    }
}
