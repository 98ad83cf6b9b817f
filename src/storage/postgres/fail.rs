//! Why a statement has no answer.

use super::sqlstate::{Fate, Meaning, QUERY_CANCELED, SERIALIZATION_FAILURE, UNIQUE_VIOLATION};

/// Why a statement has no answer.
#[derive(Debug)]
pub(super) enum Fail {
    /// There was no connection: the statement was not sent.
    Connecting(sqlx::Error),
    /// All connections, so many, were in use for as long as a call waits for one.
    InUse(Whose, u32),
    Running(sqlx::Error),
    /// No answer within the deadline.
    Late,
}

/// Whose connections were in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// The connections of a pool that the application gave.
    Application,
    Ours,
}

/// What a statement that failed was about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Fail {
    /// Whether the same statement, sent again, sees what this one collided with.
    pub(super) fn is_collision(&self) -> bool {
        let Self::Running(sqlx::Error::Database(error)) = self else {
            return false;
        };
        match error.code().as_deref() {
            Some(SERIALIZATION_FAILURE) => true,
            Some(UNIQUE_VIOLATION) => OUR_KEYS.contains(&error.constraint().unwrap_or_default()),
            _ => false,
        }
    }

    /// The SQLSTATE, if the server sent one.
    pub(super) fn code(&self) -> Option<String> {
        match self {
            Self::Connecting(sqlx::Error::Database(error))
            | Self::Running(sqlx::Error::Database(error)) => error.code().map(Into::into),
            _ => None,
        }
    }

    /// Whether the server sent this SQLSTATE.
    pub(super) fn has_code(&self, code: &str) -> bool {
        self.code().as_deref() == Some(code)
    }

    /// What the server's error means, if it sent one.
    pub(super) fn meaning(&self) -> Meaning {
        Meaning::of(&self.code().unwrap_or_default())
    }

    /// Whether the statement was cancelled, or nobody waited for it any longer.
    pub(super) fn took_too_long(&self) -> bool {
        matches!(self, Self::Late) || self.has_code(QUERY_CANCELED)
    }

    /// What the server said, if it said something.
    pub(super) fn said(&self) -> String {
        match self {
            Self::Connecting(sqlx::Error::Database(error))
            | Self::Running(sqlx::Error::Database(error)) => error.message().to_owned(),
            _ => String::new(),
        }
    }

    /// What becomes of the connection that the statement was sent on.
    pub(super) fn fate(&self) -> Fate {
        match self {
            Self::Connecting(sqlx::Error::Database(error))
            | Self::Running(sqlx::Error::Database(error)) => Fate::of(&**error),
            Self::Running(
                sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::Encode(_)
                | sqlx::Error::RowNotFound,
            ) => Fate::Stays,
            Self::Connecting(_) | Self::Running(_) | Self::InUse(..) | Self::Late => Fate::Ends,
        }
    }

    /// Whether the server refused the login.
    pub(super) fn is_refused_login(&self) -> bool {
        matches!(self, Self::Connecting(_)) && self.meaning() == Meaning::LoginRefused
    }
}

/// Keys on which concurrent calls collide where a snapshot is older than a lock.
const OUR_KEYS: [&str; 8] = [
    "batches_pkey",
    "batches_id",
    "positions_pkey",
    "ids_pkey",
    "trim_state_pkey",
    "leases_name",
    "streams_name_key",
    "partitions_pkey",
];
