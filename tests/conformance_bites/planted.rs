//! The memory storage, with a bug.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use flowstream::storage::{
    Append, Appended, Claim, Fetched, Group, GroupState, Id, Lease, Liveness, MemoryStorage, Name,
    Notification, Over, Partition, Progress, Ranges, Read, Reset, Row, Start, Storage,
    StreamSettings, Verdicts, WrittenRow,
};
use flowstream::{Clock, Error, ErrorKind, ManualClock, Result};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bug {
    None,
    AnswersTheSettingsAsked,
    WritesRowByRow,
    LosesTheLastRow,
    SwallowsAppends,
    TurnsTheOffsetsRound,
    LetsTimeGoBack,
    TellsAnotherTime,
    SkipsAMessage,
    ReadsTooMuch,
    CutsNoBatchButBeginsLate,
    ForgetsIds,
    ForgetsIdsSoon,
    ForgetsIdsOnTrim,
    IgnoresTheOrder,
    LooksAtLeasesFirst,
    SettlesWithoutRefusing,
    BeginsLateAtTheStart,
    ResetsGroups,
    IgnoresTheFence,
    IgnoresTheFenceOfAppends,
    NamesAllAsFenced,
    WritesTheCommitsThatAreNotFenced,
    ReplacesProgress,
    DropsCommits,
    DeniesCommits,
    KeepsTheGeneration,
    RenewsWithoutWriting,
    TakesOverWhatIsHeld,
    GivesANewEpochToTheOwner,
    ReleasesForAnybody,
    SkipsAttempts,
    DropsRaisedAttempts,
    AddsAttempts,
    CountsAttemptsOfCleanClaims,
    CountsAttemptsUnasked,
    ListsTooFewGroups,
    ForcesEveryReset,
    ResetsToWhereItStands,
    TrimsOneTooMany,
    ReusesOffsetsAfterTrim,
    TellsNothing,
    TellsTheFirstSubscriberOnly,
    TellsNoRelease,
    KeepsWhatIsReleased,
    CallsOwnersDead,
    ReadsNoEpoch,
    ReadsTheFirstEpoch,
    LosesTheCommitsOfAppends,
    StopsWhenDropped,
    ChecksThenWrites,
    StaysOpen,
}

#[derive(Debug)]
pub(crate) struct Planted {
    bug: Bug,
    clock: ManualClock,
    inner: Arc<MemoryStorage>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The offsets of what was written, oldest first.
    written: VecDeque<(Id, Vec<u64>)>,
    last_commit: HashMap<Group, Ranges>,
    first_epoch: HashMap<Partition, u64>,
    clean_claims: HashSet<Group>,
    renamed: HashMap<Partition, u32>,
    subscribed: bool,
    /// The number of appends or commits so far.
    writes: u64,
}

impl Planted {
    pub(crate) fn new(bug: Bug, clock: ManualClock) -> Self {
        Self {
            bug,
            inner: Arc::new(MemoryStorage::new(Arc::new(clock.clone()))),
            clock,
            state: Mutex::default(),
        }
    }

    pub(crate) fn bug(&self) -> Bug {
        self.bug
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    /// Where the messages really are.
    fn place(&self, partition: &Partition) -> Partition {
        let renamed = self.state.lock().unwrap().renamed.get(partition).copied();
        let stream = renamed.map(|times| format!("{} {times}", partition.stream));
        Partition {
            stream: stream.map_or(partition.stream.clone(), |name| Name::new(name).unwrap()),
            index: partition.index,
        }
    }

    /// The lease of whoever has it now.
    async fn current(&self, lease: &Lease) -> Lease {
        let states = self.inner.observe(std::slice::from_ref(&lease.group)).await;
        let state = states.unwrap().remove(0).unwrap();
        Lease {
            group: lease.group.clone(),
            owner: state.owner.unwrap_or(lease.owner),
            epoch: state.epoch,
        }
    }

    async fn append_rows(&self, append: &Append) -> Result<Appended> {
        let mut rows = Vec::new();
        let mut commits = append.commits.clone();
        for row in append.rows.clone() {
            let one = Append {
                id: Id::random(),
                after: None,
                rows: vec![row],
                commits: std::mem::take(&mut commits),
            };
            match self.inner.append(Arc::new(one)).await? {
                Appended::Written(written) => rows.extend(written),
                other => return Ok(other),
            }
            // Long enough for a reader on another thread.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Appended::Written(rows))
    }

    async fn fenced(&self, append: &Append) -> Vec<usize> {
        let mut fenced = Vec::new();
        for (index, (lease, _)) in append.commits.iter().enumerate() {
            if self.current(lease).await != *lease {
                fenced.push(index);
            }
        }
        fenced
    }

    /// Each third time.
    fn is_third(&self) -> bool {
        let writes = &mut self.state.lock().unwrap().writes;
        *writes += 1;
        writes.is_multiple_of(3)
    }

    fn known(&self, id: Id) -> Option<Vec<u64>> {
        let state = self.state.lock().unwrap();
        let known = state.written.iter().find(|(written, _)| *written == id);
        known.map(|(_, offsets)| offsets.clone())
    }

    async fn planted_append(&self, append: Arc<Append>) -> Result<Appended> {
        let id = append.id;
        let mut changed = Append {
            id,
            after: append.after,
            rows: append
                .rows
                .iter()
                .map(|row| Row {
                    partition: self.place(&row.partition),
                    records: row.records.clone(),
                })
                .collect(),
            commits: append.commits.clone(),
        };
        let fenced = match append.commits.len() {
            0 => Vec::new(),
            _ => self.fenced(&append).await,
        };
        match self.bug {
            Bug::WritesRowByRow => return self.append_rows(&append).await,
            Bug::SwallowsAppends if self.is_third() => {
                let places = changed.rows.iter().map(|row| row.partition.clone());
                let bounds = self.inner.bounds(&places.collect::<Vec<_>>()).await?;
                let appended_at = self.clock.wall();
                let rows = bounds.iter().map(|it| WrittenRow {
                    base_offset: it.end,
                    appended_at,
                });
                return Ok(Appended::Written(rows.collect()));
            }
            Bug::LosesTheLastRow if changed.rows.len() > 1 => drop(changed.rows.pop()),
            Bug::IgnoresTheOrder => changed.after = None,
            Bug::ForgetsIds => changed.id = Id::random(),
            Bug::ForgetsIdsSoon | Bug::ForgetsIdsOnTrim => {
                if let Some(offsets) = self.known(id) {
                    return Ok(Appended::Known(offsets));
                }
                changed.id = Id::random();
            }
            Bug::ChecksThenWrites => {
                if let Some(offsets) = self.known(id) {
                    return Ok(Appended::Known(offsets));
                }
                tokio::task::yield_now().await;
                std::thread::sleep(Duration::from_millis(1));
                changed.id = Id::random();
            }
            Bug::LosesTheCommitsOfAppends if !changed.rows.is_empty() => changed.commits.clear(),
            Bug::LooksAtLeasesFirst if !fenced.is_empty() => return Ok(Appended::Fenced(fenced)),
            Bug::IgnoresTheFenceOfAppends => {
                for (lease, _) in &mut changed.commits {
                    *lease = self.current(lease).await;
                }
            }
            Bug::WritesTheCommitsThatAreNotFenced if !fenced.is_empty() => {
                for (lease, done) in &append.commits {
                    let _ = self.inner.commit(lease, &done.clone().into()).await;
                }
            }
            _ => {}
        }
        let appended = self.inner.append(Arc::new(changed)).await?;
        Ok(match appended {
            Appended::Fenced(_) if self.has(Bug::NamesAllAsFenced) => {
                Appended::Fenced((0..append.commits.len()).collect())
            }
            Appended::Written(mut rows) => {
                let lost = WrittenRow {
                    base_offset: 0,
                    appended_at: self.clock.wall(),
                };
                rows.resize(append.rows.len(), lost);
                if self.has(Bug::TurnsTheOffsetsRound) {
                    rows.reverse();
                }
                if self.has(Bug::TellsAnotherTime) {
                    for row in &mut rows {
                        row.appended_at += Duration::from_micros(1);
                    }
                }
                let bases = rows.iter().map(|row| row.base_offset).collect();
                let written = &mut self.state.lock().unwrap().written;
                written.push_back((id, bases));
                if written.len() > 500 && self.has(Bug::ForgetsIdsSoon) {
                    written.pop_front();
                }
                Appended::Written(rows)
            }
            other => other,
        })
    }

    fn planted_state(&self, group: &Group, mut state: GroupState) -> GroupState {
        let seen = self.state.lock().unwrap();
        match self.bug {
            Bug::ReplacesProgress => {
                if let Some(last) = seen.last_commit.get(group) {
                    state.progress = Progress::at(0);
                    state.progress.merge(last);
                }
            }
            Bug::KeepsTheGeneration => state.generation = state.epoch,
            Bug::SkipsAttempts => state.attempts.clear(),
            Bug::CallsOwnersDead if state.owner.is_some() => state.liveness = Liveness::Dead,
            Bug::CountsAttemptsOfCleanClaims if seen.clean_claims.contains(group) => {
                state.attempts.push((0, 1));
            }
            _ => {}
        }
        state
    }
}

impl Storage for Planted {
    fn create_stream<'a>(
        &'a self,
        stream: &'a Name,
        partitions: Option<u32>,
    ) -> BoxFuture<'a, Result<StreamSettings>> {
        Box::pin(async move {
            let settings = self.inner.create_stream(stream, partitions).await?;
            Ok(match partitions {
                Some(asked) if self.has(Bug::AnswersTheSettingsAsked) => StreamSettings::new(asked),
                _ => settings,
            })
        })
    }

    fn append(&self, append: Arc<Append>) -> BoxFuture<'_, Result<Appended>> {
        Box::pin(async move {
            if self.has(Bug::StopsWhenDropped) {
                tokio::task::yield_now().await;
            }
            self.planted_append(append).await
        })
    }

    fn append_depth(&self) -> usize {
        self.inner.append_depth()
    }

    fn settle<'a>(
        &'a self,
        id: Id,
        partitions: &'a [Partition],
    ) -> BoxFuture<'a, Result<Option<Vec<u64>>>> {
        Box::pin(async move {
            if self.has(Bug::SettlesWithoutRefusing) {
                return Ok(self.known(id));
            }
            if let Some(offsets) = self.known(id) {
                return Ok(Some(offsets));
            }
            self.inner.settle(id, partitions).await
        })
    }

    fn read(&self, mut read: Read) -> BoxFuture<'_, Result<Fetched>> {
        Box::pin(async move {
            read.partition = self.place(&read.partition);
            match self.bug {
                Bug::SkipsAMessage => read.from = read.from.saturating_add(1),
                Bug::ReadsTooMuch => read.max_bytes = usize::MAX,
                _ => {}
            }
            let (from, partition) = (read.from, read.partition.clone());
            let mut fetched = self.inner.read(read).await?;
            match self.bug {
                Bug::ReadsNoEpoch => fetched.epoch = 0,
                Bug::ReadsTheFirstEpoch => {
                    let first = &mut self.state.lock().unwrap().first_epoch;
                    fetched.epoch = *first.entry(partition).or_insert(fetched.epoch);
                }
                _ => {}
            }
            if self.has(Bug::CutsNoBatchButBeginsLate) {
                fetched.batches.retain(|batch| batch.base_offset >= from);
            }
            if self.has(Bug::LetsTimeGoBack) {
                for batch in &mut fetched.batches {
                    let age = self.clock.wall().duration_since(batch.appended_at).unwrap();
                    batch.appended_at = SystemTime::UNIX_EPOCH + age;
                }
            }
            Ok(fetched)
        })
    }

    fn bounds<'a>(&'a self, partitions: &'a [Partition]) -> BoxFuture<'a, Result<Vec<Range<u64>>>> {
        let places: Vec<Partition> = partitions.iter().map(|p| self.place(p)).collect();
        Box::pin(async move { self.inner.bounds(&places).await })
    }

    fn create_group<'a>(&'a self, group: &'a Group, start: Start) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let start = match start {
                Start::Earliest if self.has(Bug::BeginsLateAtTheStart) => Start::Latest,
                start => start,
            };
            self.inner.create_group(group, start).await?;
            if self.has(Bug::ResetsGroups) && start == Start::Latest {
                let states = self.inner.observe(std::slice::from_ref(group)).await?;
                let state = states[0].clone().unwrap();
                let lease = Lease {
                    group: group.clone(),
                    owner: state.owner.unwrap_or(Id(0)),
                    epoch: state.epoch,
                };
                let all = Verdicts::from(0..state.bounds.end);
                let _ = self.inner.commit(&lease, &all).await;
            }
            Ok(())
        })
    }

    fn observe<'a>(
        &'a self,
        groups: &'a [Group],
    ) -> BoxFuture<'a, Result<Vec<Option<GroupState>>>> {
        Box::pin(async move {
            let states = self.inner.observe(groups).await?.into_iter().zip(groups);
            Ok(states
                .map(|(state, group)| Some(self.planted_state(group, state?)))
                .collect())
        })
    }

    fn claim(&self, mut claim: Claim) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            let group = claim.group.clone();
            let states = self.inner.observe(std::slice::from_ref(&group)).await?;
            if let Some(state) = &states[0] {
                let right = claim.over.is_some_and(|over| over.epoch == state.epoch);
                if self.has(Bug::KeepsTheGeneration) && right || self.has(Bug::TakesOverWhatIsHeld)
                {
                    claim.over = Some(Over::another(state.epoch, state.generation));
                }
                if self.has(Bug::CountsAttemptsUnasked)
                    && let Some(over) = &mut claim.over
                {
                    over.counts_attempt = true;
                }
                if self.has(Bug::GivesANewEpochToTheOwner) && state.owner == Some(claim.owner) {
                    let lease = Lease {
                        group: group.clone(),
                        owner: claim.owner,
                        epoch: state.epoch,
                    };
                    self.inner.release(&lease).await?;
                }
                if state.owner.is_none() && state.epoch > 0 {
                    self.state
                        .lock()
                        .unwrap()
                        .clean_claims
                        .insert(group.clone());
                }
            }
            let state = self.inner.claim(claim).await?;
            Ok(self.planted_state(&group, state))
        })
    }

    fn commit<'a>(
        &'a self,
        lease: &'a Lease,
        verdicts: &'a Verdicts,
    ) -> BoxFuture<'a, Result<Progress>> {
        let done = &verdicts.done;
        let mut verdicts = verdicts.clone();
        Box::pin(async move {
            if self.has(Bug::StopsWhenDropped) {
                tokio::task::yield_now().await;
            }
            if self.has(Bug::RenewsWithoutWriting) && done.is_empty() {
                let current = self.current(lease).await;
                if current == *lease {
                    let states = self
                        .inner
                        .observe(std::slice::from_ref(&lease.group))
                        .await?;
                    return Ok(states[0].clone().unwrap().progress);
                }
            }
            let lease = match self.bug {
                Bug::IgnoresTheFence => self.current(lease).await,
                _ => lease.clone(),
            };
            match self.bug {
                Bug::DropsRaisedAttempts => verdicts.attempts.clear(),
                Bug::AddsAttempts => {
                    let states = std::slice::from_ref(&lease.group);
                    let state = self.inner.observe(states).await?.remove(0).unwrap();
                    for (at, count) in &mut verdicts.attempts {
                        let stored = state.attempts.iter().find(|(stored, _)| stored == at);
                        *count += stored.map_or(0, |(_, count)| *count);
                    }
                }
                _ => {}
            }
            if self.has(Bug::DropsCommits) && !done.is_empty() && self.is_third() {
                let nothing = Verdicts::default();
                let mut progress = self.inner.commit(&lease, &nothing).await?;
                progress.merge(done);
                return Ok(progress);
            }
            let progress = self.inner.commit(&lease, &verdicts).await?;
            if self.has(Bug::DeniesCommits) && !done.is_empty() && self.is_third() {
                return Err(Error::new(ErrorKind::Fenced, "the lease was lost"));
            }
            if !self.has(Bug::ReplacesProgress) {
                return Ok(progress);
            }
            let last = &mut self.state.lock().unwrap().last_commit;
            last.insert(lease.group.clone(), done.clone());
            let mut progress = Progress::at(0);
            progress.merge(done);
            Ok(progress)
        })
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let lease = match self.bug {
                Bug::KeepsWhatIsReleased => return Ok(()),
                Bug::ReleasesForAnybody => self.current(lease).await,
                _ => lease.clone(),
            };
            self.inner.release(&lease).await
        })
    }

    fn groups<'a>(&'a self, stream: Option<&'a Name>) -> BoxFuture<'a, Result<Vec<Group>>> {
        Box::pin(async move {
            let mut groups = self.inner.groups(stream).await?;
            if self.has(Bug::ListsTooFewGroups) {
                groups.pop();
            }
            Ok(groups)
        })
    }

    fn reset(&self, mut reset: Reset) -> BoxFuture<'_, Result<GroupState>> {
        Box::pin(async move {
            match self.bug {
                Bug::ForcesEveryReset => reset.is_forced = true,
                Bug::ResetsToWhereItStands => reset.to = None,
                _ => {}
            }
            self.inner.reset(reset).await
        })
    }

    fn trim<'a>(&'a self, partition: &'a Partition, before: u64) -> BoxFuture<'a, Result<u64>> {
        Box::pin(async move {
            let place = self.place(partition);
            let before = match self.bug {
                Bug::TrimsOneTooMany => before + 1,
                _ => before,
            };
            let start = self.inner.trim(&place, before).await?;
            if self.has(Bug::ForgetsIdsOnTrim) {
                self.state.lock().unwrap().written.clear();
            }
            let bounds = self.inner.bounds(&[place]).await?.remove(0);
            if self.has(Bug::ReusesOffsetsAfterTrim) && bounds.is_empty() {
                *self
                    .state
                    .lock()
                    .unwrap()
                    .renamed
                    .entry(partition.clone())
                    .or_default() += 1;
                let fresh = self.place(partition).stream;
                self.inner.create_stream(&fresh, Some(8)).await?;
            }
            Ok(start)
        })
    }

    fn notifications(&self) -> BoxStream<'static, Notification> {
        let first = !std::mem::replace(&mut self.state.lock().unwrap().subscribed, true);
        match self.bug {
            Bug::TellsNothing => futures::stream::pending().boxed(),
            Bug::TellsNoRelease => {
                let is_append = |told: &Notification| !matches!(told, Notification::Released(_));
                let told = self.inner.notifications();
                told.filter(move |told| std::future::ready(is_append(told)))
                    .boxed()
            }
            Bug::TellsTheFirstSubscriberOnly if !first => futures::stream::pending().boxed(),
            _ => self.inner.notifications(),
        }
    }

    fn poll_interval(&self) -> Option<Duration> {
        None
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            match self.bug {
                Bug::StaysOpen => Ok(()),
                _ => self.inner.close().await,
            }
        })
    }
}
