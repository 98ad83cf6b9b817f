//! Why the consumer is to look up from what it hands out: bits of a set.
//!
//! A reason is set after what it speaks of, and taken before that is looked at: release and acquire.

/// It was shut down. This one stays.
pub(super) const STOPPED: u8 = 1;

/// There are messages to deliver again.
pub(super) const AGAIN: u8 = 2;

/// A partition is not paused any more.
pub(super) const RESUMED: u8 = 4;

/// Somebody waits for a poll.
pub(super) const POLL: u8 = 8;
