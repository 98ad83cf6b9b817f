//! What the storages of this crate have in common.

pub(in crate::storage) mod groups;
pub(in crate::storage) mod ids;
pub(in crate::storage) mod notify;
pub(crate) mod refusals;
