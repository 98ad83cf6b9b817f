//! The calls of a storage, but for what cannot fail.

/// The calls of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    CreateStream,
    Append,
    Settle,
    Read,
    Bounds,
    CreateGroup,
    Observe,
    Claim,
    Commit,
    Release,
    Groups,
    Reset,
    Trim,
    Close,
}

/// All that a pipeline uses.
pub(crate) const ALL: [Call; 14] = [
    Call::CreateStream,
    Call::Append,
    Call::Settle,
    Call::Read,
    Call::Bounds,
    Call::CreateGroup,
    Call::Observe,
    Call::Claim,
    Call::Commit,
    Call::Release,
    Call::Groups,
    Call::Reset,
    Call::Trim,
    Call::Close,
];
