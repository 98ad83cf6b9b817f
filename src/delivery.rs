//! What a consumer gets.
/// A commit handle.
#[derive(Debug)]
pub struct Commit {}
