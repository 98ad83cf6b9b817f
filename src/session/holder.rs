//! The consumer, as a session sees it.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::pausing::Pause;
use crate::name::Name;

/// The consumer that has a lease. A session tells it what changes, and asks it what only it knows.
pub(crate) trait LeaseHolder: fmt::Debug + Send + Sync {
    /// What it shares with all handles of its storage. Its type lies above the sessions: whoever hands
    /// deliveries out knows it.
    fn context(&self) -> &dyn Any;

    /// Wakes whoever polls it.
    fn wake(&self);

    /// Whether its last poll found nothing, and nobody has woken it since.
    fn is_asleep(&self) -> bool;

    /// Whether it is shut down.
    fn is_stopped(&self) -> bool;

    /// How often it was polled.
    fn polls(&self) -> u64;

    /// The lease with this epoch, of this one of its partitions, is paused or goes on: as `pause` says
    /// when it is called, so that the last who says so has seen the last change.
    fn set_pause(&self, partition: usize, epoch: u64, pause: &dyn Fn() -> Option<Pause>);

    /// A partition is paused: others may have its room.
    fn paused(&self);

    /// A partition is not paused any more.
    fn resumed(&self);
}

/// What a session knows of its holder.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) holder: Arc<dyn LeaseHolder>,
    /// Which of the holder's partitions the lease is of, counted from 0.
    pub(crate) partition: usize,
    /// Where messages go that cannot be done; `None` if no name would do.
    pub(crate) dead_letters: Option<Name>,
    /// How often a message may be begun; `None` if that is not limited.
    pub(crate) max_attempts: Option<u32>,
}
