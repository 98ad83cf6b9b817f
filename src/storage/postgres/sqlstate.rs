//! SQLSTATE: the codes of the server's errors, what each of them means to the storage, and what it says of
//! the session that it came in.
//!
//! The names are those of the manual of PostgreSQL, but for our own, which begin with ZF.

use sqlx::error::DatabaseError;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

pub(super) const PROTOCOL_VIOLATION: &str = "08P01";
pub(super) const FEATURE_NOT_SUPPORTED: &str = "0A000";
const DATA_EXCEPTION: &str = "22000";
const NUMERIC_VALUE_OUT_OF_RANGE: &str = "22003";
const DATETIME_FIELD_OVERFLOW: &str = "22008";
const CHARACTER_NOT_IN_REPERTOIRE: &str = "22021";
const INVALID_PARAMETER_VALUE: &str = "22023";
const UNTRANSLATABLE_CHARACTER: &str = "22P05";
const NOT_NULL_VIOLATION: &str = "23502";
pub(super) const UNIQUE_VIOLATION: &str = "23505";
const READ_ONLY_SQL_TRANSACTION: &str = "25006";
const IN_FAILED_SQL_TRANSACTION: &str = "25P02";
const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: &str = "25P03";
const TRANSACTION_TIMEOUT: &str = "25P04";
const INVALID_SQL_STATEMENT_NAME: &str = "26000";
pub(super) const INVALID_PASSWORD: &str = "28P01";
const INVALID_CATALOG_NAME: &str = "3D000";
pub(super) const INVALID_SCHEMA_NAME: &str = "3F000";
pub(super) const SERIALIZATION_FAILURE: &str = "40001";
const DEADLOCK_DETECTED: &str = "40P01";
pub(super) const INSUFFICIENT_PRIVILEGE: &str = "42501";
pub(super) const UNDEFINED_COLUMN: &str = "42703";
const UNDEFINED_OBJECT: &str = "42704";
pub(super) const DUPLICATE_OBJECT: &str = "42710";
pub(super) const DUPLICATE_FUNCTION: &str = "42723";
const UNDEFINED_FUNCTION: &str = "42883";
pub(super) const UNDEFINED_TABLE: &str = "42P01";
const DUPLICATE_PREPARED_STATEMENT: &str = "42P05";
pub(super) const DUPLICATE_SCHEMA: &str = "42P06";
pub(super) const DUPLICATE_TABLE: &str = "42P07";
pub(super) const PROGRAM_LIMIT_EXCEEDED: &str = "54000";
const CANT_CHANGE_RUNTIME_PARAM: &str = "55P02";
const LOCK_NOT_AVAILABLE: &str = "55P03";
pub(super) const QUERY_CANCELED: &str = "57014";
const NO_DATA_FOUND: &str = "P0002";
const DATA_CORRUPTED: &str = "XX001";
const INDEX_CORRUPTED: &str = "XX002";

/// Raised by `check_ack` of the schema: an ack of a lease that was lost.
const LEASE_LOST: &str = "ZF001";
/// Raised by `check_ack` of the schema: an ack of a message that is done already.
const ALREADY_DONE: &str = "ZF002";
/// Raised by `begin_in` of the schema: the transaction is in another database than the storage.
const OTHER_DATABASE: &str = "ZF003";

const CONNECTION_EXCEPTION_CLASS: &str = "08";
const INVALID_AUTHORIZATION_CLASS: &str = "28";
const INSUFFICIENT_RESOURCES_CLASS: &str = "53";
const OPERATOR_INTERVENTION_CLASS: &str = "57";
/// The server is told to end, or the session is, where the rest of the class only ends a statement.
const SHUTDOWN_CLASS: &str = "57P";
const SYSTEM_ERROR_CLASS: &str = "58";

/// What the code of an error means, wherever it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The login is refused.
    LoginRefused,
    /// The server or the session takes no writes.
    ReadOnly,
    NoSuchDatabase,
    /// The role may not do this.
    LacksRights,
    /// A part of the schema is not there.
    SchemaIncomplete,
    /// A transaction took longer than the server allows, which has ended its session.
    TransactionTookTooLong,
    /// A statement was given up because of what others do, or because it took too long.
    GivenUp,
    /// A key is there already.
    DuplicateKey,
    /// The encoding of the database lacks characters of a name.
    NotInEncoding,
    /// A setting has not this value, or cannot have it now.
    SettingRefused,
    /// The server cannot do this at all.
    Unsupported,
    /// The client, or something between the two, said what the server does not understand.
    ProtocolViolation,
    /// The server cannot do this now.
    ServerUnable,
    /// Files of the database are damaged.
    DatabaseDamaged,
    /// Rows hold what the storage never writes.
    ForeignRows,
    /// An earlier statement of the transaction has failed.
    TransactionFailed,
    LeaseLost,
    AlreadyDone,
    OtherDatabase,
    Unexpected,
}

impl Meaning {
    pub(super) fn of(code: &str) -> Self {
        let is_of = |class: &str| code.starts_with(class);
        match code {
            READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
            INVALID_CATALOG_NAME => Self::NoSuchDatabase,
            INSUFFICIENT_PRIVILEGE => Self::LacksRights,
            INVALID_SCHEMA_NAME | UNDEFINED_TABLE | UNDEFINED_FUNCTION => Self::SchemaIncomplete,
            IDLE_IN_TRANSACTION_SESSION_TIMEOUT | TRANSACTION_TIMEOUT => {
                Self::TransactionTookTooLong
            }
            SERIALIZATION_FAILURE | DEADLOCK_DETECTED | LOCK_NOT_AVAILABLE | QUERY_CANCELED => {
                Self::GivenUp
            }
            UNIQUE_VIOLATION => Self::DuplicateKey,
            UNTRANSLATABLE_CHARACTER | CHARACTER_NOT_IN_REPERTOIRE => Self::NotInEncoding,
            INVALID_PARAMETER_VALUE | UNDEFINED_OBJECT | CANT_CHANGE_RUNTIME_PARAM => {
                Self::SettingRefused
            }
            FEATURE_NOT_SUPPORTED => Self::Unsupported,
            PROTOCOL_VIOLATION => Self::ProtocolViolation,
            DATA_CORRUPTED | INDEX_CORRUPTED => Self::DatabaseDamaged,
            // A number or a range that cannot be, NULL, no row: nothing that flowstream writes leads
            // to these.
            DATA_EXCEPTION
            | NUMERIC_VALUE_OUT_OF_RANGE
            | DATETIME_FIELD_OVERFLOW
            | NOT_NULL_VIOLATION
            | NO_DATA_FOUND => Self::ForeignRows,
            IN_FAILED_SQL_TRANSACTION => Self::TransactionFailed,
            LEASE_LOST => Self::LeaseLost,
            ALREADY_DONE => Self::AlreadyDone,
            OTHER_DATABASE => Self::OtherDatabase,
            _ if is_of(INVALID_AUTHORIZATION_CLASS) => Self::LoginRefused,
            _ if is_of(CONNECTION_EXCEPTION_CLASS)
                || is_of(INSUFFICIENT_RESOURCES_CLASS)
                || is_of(OPERATOR_INTERVENTION_CLASS)
                || is_of(SYSTEM_ERROR_CLASS) =>
            {
                Self::ServerUnable
            }
            _ => Self::Unexpected,
        }
    }
}

/// What becomes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The session is good for another statement.
    Stays,
    /// What was prepared in the session is of a schema that has changed, or was taken away. Nothing was written.
    Outdated,
    /// The session takes no writes, and would not for as long as it lives: a standby, or a setting from when it
    /// began.
    ReadOnly,
    /// The session has ended, or is about to.
    Ends,
}

impl Fate {
    /// What an error says of the session that it came in. What a session remembers is as old as the
    /// session, so whoever finds that out of one has reason to ask the others.
    pub(super) fn of(said: &(dyn DatabaseError + 'static)) -> Self {
        match &*said.code().unwrap_or_default() {
            // Nothing of ours is unsupported, so this is "cached plan must not change result type".
            FEATURE_NOT_SUPPORTED => Self::Outdated,
            INVALID_SQL_STATEMENT_NAME | DUPLICATE_PREPARED_STATEMENT => Self::Outdated,
            READ_ONLY_SQL_TRANSACTION => Self::ReadOnly,
            IDLE_IN_TRANSACTION_SESSION_TIMEOUT | TRANSACTION_TIMEOUT => Self::Ends,
            // A broken protocol; a server that ends, an idle session that is ended.
            code if code.starts_with(CONNECTION_EXCEPTION_CLASS) => Self::Ends,
            code if code.starts_with(SHUTDOWN_CLASS) => Self::Ends,
            _ if is_fatal(said) => Self::Ends,
            _ => Self::Stays,
        }
    }
}

/// Whether the server closes the session behind the error, whatever its code is.
fn is_fatal(said: &(dyn DatabaseError + 'static)) -> bool {
    let said = said.try_downcast_ref::<PgDatabaseError>();
    said.is_some_and(|said| matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_means_more_than_its_class() {
        for (code, meaning) in [
            ("57014", Meaning::GivenUp),
            ("57P01", Meaning::ServerUnable),
            ("08P01", Meaning::ProtocolViolation),
            ("08006", Meaning::ServerUnable),
            ("28000", Meaning::LoginRefused),
            ("22P02", Meaning::Unexpected),
            ("ZF002", Meaning::AlreadyDone),
            ("", Meaning::Unexpected),
        ] {
            assert_eq!(Meaning::of(code), meaning, "{code}");
        }
    }
}
