//! Group commit.
#[derive(Debug)]
pub(crate) struct Doubt {}
