//! The same promises as a user meets them: producers, consumers, commits and pipelines.

pub(super) mod abandoned;
pub(super) mod commits;
pub(super) mod consuming;
pub(super) mod cut_off;
pub(super) mod dead_letters;
mod gate;
pub(super) mod handover;
pub(super) mod holding;
pub(super) mod holes;
pub(super) mod lost;
pub(super) mod operating;
pub(super) mod producing;
pub(super) mod relay;
pub(super) mod restarts;
pub(super) mod retries;
mod rig;
pub(super) mod routing;
mod sink;
pub(super) mod storm;
pub(super) mod tails;
pub(super) mod torn;
pub(super) mod waking;
