//! How what went wrong with the server reads: one table for all situations, by what its code
//! [means](Meaning).
//!
//! No error of sqlx is passed on: its texts may name the role.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;

use super::fail::{Access, Fail, Whose};
use super::server::{Said, Server};
use super::sqlstate::{Fate, INVALID_PASSWORD, Meaning};
use crate::error::{Error, ErrorKind};
use crate::storage::shared::refusals::closed;

impl Server {
    pub(super) fn explain(&self, fail: Fail, access: Access) -> Error {
        match fail {
            Fail::Connecting(error) => self.explain_connecting(error),
            Fail::InUse(whose, most) => self.explain_in_use(whose, most),
            Fail::Running(sqlx::Error::Database(error)) => self.explain_said(&*error, access),
            Fail::Running(sqlx::Error::PoolClosed) => closed(),
            Fail::Running(
                error @ (sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed),
            ) => {
                let cause = self.cause(&error);
                let text = format!(
                    "the connection to {} broke: {cause}; try again",
                    self.name()
                );
                self.doubtful(Error::new(ErrorKind::Unavailable, text), access)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
            Fail::Running(error) => {
                let text = format!(
                    "an answer of {} is not understood: is its schema {} the one of this flowstream?",
                    self.name(),
                    self.schema
                );
                Error::new(ErrorKind::Internal, text)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
            Fail::Late => {
                let text = format!(
                    "{} did not answer in time: it is overloaded, or the network drops what is sent; \
                     try again, or allow more with PostgresOptions::statement_timeout",
                    self.name()
                );
                self.doubtful(Error::new(ErrorKind::Unavailable, text), access)
            }
        }
    }

    fn explain_in_use(&self, whose: Whose, most: u32) -> Error {
        let what = match whose {
            Whose::Application => format!(
                "the application's pool has {most}, and all are in use, or being made: give them back \
                 sooner, or enlarge the pool (PgPoolOptions::max_connections)"
            ),
            Whose::Ours => format!(
                "flowstream has {most} for such calls, and all are in use: the server is slow, or it \
                 takes more (PostgresOptions::max_connections)"
            ),
        };
        let text = format!(
            "no connection to {} became free in time: {what}",
            self.name()
        );
        Error::new(ErrorKind::Unavailable, text)
    }

    fn explain_connecting(&self, error: sqlx::Error) -> Error {
        let name = self.name();
        let said = Said(self.scrub(&error.to_string()));
        match error {
            sqlx::Error::PoolClosed => closed(),
            // A pool of sqlx tries again for as long as it waits, and does not say what went wrong.
            sqlx::Error::PoolTimedOut => {
                let text = format!(
                    "{name} cannot be reached: no connection could be made in time; see whether it \
                     runs, and whether host and port are right"
                );
                Error::new(ErrorKind::Unavailable, text)
            }
            sqlx::Error::Database(error) => {
                let refused = self.explain_refused(&*error);
                refused.unwrap_or_else(|| self.explain_said(&*error, Access::Read))
            }
            sqlx::Error::Configuration(_) => {
                let text = format!("{name} cannot be connected to as the URL says: {said}");
                Error::invalid(text).with_source(said)
            }
            error if is_of_tls(&error) => {
                let text = format!(
                    "{name} cannot be connected to with TLS as sslmode says: {}; TLS is a feature of \
                     sqlx, which the application turns on: add sqlx = {{ version = \"0.9\", \
                     default-features = false, features = [\"tls-rustls-ring\"] }} to Cargo.toml",
                    self.cause(&error)
                );
                Error::invalid(text).with_source(said)
            }
            error => {
                let text = format!(
                    "{name} cannot be reached: {}; see whether it runs, and whether host and port are \
                     right",
                    self.cause(&error)
                );
                Error::new(ErrorKind::Unavailable, text).with_source(said)
            }
        }
    }

    /// Why a login was refused, as far as the server tells. Its texts may be in any language, but not
    /// the names of its routines.
    fn explain_login(&self, said: &(dyn DatabaseError + 'static)) -> Error {
        let code = said.code().unwrap_or_default();
        let postgres = said.try_downcast_ref::<PgDatabaseError>();
        let routine = postgres.and_then(PgDatabaseError::routine);
        let why = match (&*code, routine) {
            (INVALID_PASSWORD, _) if !self.has_password => {
                "it asks for a password, and none was given: write it into the URL, \
                 postgres://ROLE:PASSWORD@HOST/DATABASE, or set PGPASSWORD"
            }
            (INVALID_PASSWORD, _) => {
                "the password is wrong, or there is no such role (the server does not tell which); \
                 in a URL, characters of a password such as @ : / # are written as %40 %3A %2F %23"
            }
            (_, Some("InitializeSessionUserId")) => {
                "there is no such role, or it may not log in: CREATE ROLE … LOGIN or ALTER ROLE … \
                 LOGIN, or name another one in the URL"
            }
            (_, Some("ClientAuthentication")) => {
                "no line of its pg_hba.conf lets this role into this database from here: add one and \
                 reload the server; where the lines say hostssl, connect with sslmode=require"
            }
            (_, Some("auth_failed")) => {
                "the line of its pg_hba.conf for this role wants another way to log in than a \
                 password (peer, ident, a certificate …): change the line, or the role"
            }
            _ => "check role, password and pg_hba.conf",
        };
        let text = format!("{} refuses the login: {why}", self.name());
        let message = self.scrub(said.message());
        let is_named = !self.role.is_empty() && message.contains(&self.role);
        Error::invalid(text).with_source(Said(match is_named {
            true => format!("SQLSTATE {code}"),
            false => format!("SQLSTATE {code}: {message}"),
        }))
    }

    /// An error where what connections say at their beginning is refused: that is no matter of time.
    fn explain_refused(&self, said: &dyn DatabaseError) -> Option<Error> {
        let code = said.code().unwrap_or_default();
        let (name, message) = (self.name(), self.scrub(said.message()));
        let is_of_options = ["startup parameter", "command-line options"]
            .iter()
            .any(|words| message.contains(words));
        let (kind, text) = match Meaning::of(&code) {
            // Poolers have no code of their own for it.
            Meaning::ProtocolViolation | Meaning::Unsupported if is_of_options => (
                ErrorKind::Invalid,
                format!(
                    "{name} takes no settings from connections, as poolers do not: {message}; say so \
                     with PostgresOptions::pooled(true), and leave options out of the URL"
                ),
            ),
            Meaning::SettingRefused => (
                ErrorKind::Invalid,
                format!("{name} refuses a setting that a connection is to have: {message}"),
            ),
            Meaning::Unsupported => (
                ErrorKind::Unsupported,
                format!("{name} cannot be connected to: {message}"),
            ),
            _ => return None,
        };
        Some(Error::new(kind, text).with_source(Said(format!("SQLSTATE {code}: {message}"))))
    }

    fn explain_said(&self, said: &(dyn DatabaseError + 'static), access: Access) -> Error {
        let code = said.code().unwrap_or_default().into_owned();
        let meaning = Meaning::of(&code);
        if meaning == Meaning::LoginRefused {
            return self.explain_login(said);
        }
        let message = self.scrub(said.message());
        let text = self.text_of_statement(meaning, &code, &message);
        let error = Error::new(kind_of_statement(meaning), text)
            .with_source(Said(format!("SQLSTATE {code}: {message}")));
        // It may have been told to end between the commit and the answer.
        if Fate::of(said) == Fate::Ends {
            return self.doubtful(error, access);
        }
        error
    }

    /// What an error of a statement means, in words.
    fn text_of_statement(&self, meaning: Meaning, code: &str, message: &str) -> String {
        let name = self.name();
        match meaning {
            Meaning::ReadOnly => format!(
                "{name} is read-only, a standby or set so by its administrator: connect to the \
                 primary, or wait until it is one"
            ),
            Meaning::NoSuchDatabase => {
                format!("there is no database as in {name}: create it first (CREATE DATABASE)")
            }
            Meaning::LacksRights => format!(
                "the role lacks rights in {name}: {message}; whoever owns the schema runs, for \
                 this role: {}",
                self.grants()
            ),
            Meaning::SchemaIncomplete => format!(
                "the schema {} in {name} is not as it has to be, somebody changed or dropped it: \
                 {message}; where all of it is gone, opening the storage again makes it anew, and \
                 otherwise it has to be restored",
                self.schema
            ),
            Meaning::TransactionTookTooLong => {
                format!("{name} ended a session whose transaction took too long: {message}")
            }
            Meaning::GivenUp | Meaning::DuplicateKey => {
                format!("{name} gave a statement up, and nothing was written: {message}; try again")
            }
            Meaning::NotInEncoding => format!(
                "the encoding of the database {name} has not all characters of a name: {message}; \
                 use names that it has, or a database in UTF8"
            ),
            Meaning::ServerUnable | Meaning::ProtocolViolation => {
                format!("{name} cannot do this now: {message}; try again later")
            }
            Meaning::DatabaseDamaged => {
                format!("the database {name} is damaged: {message}; restore it from a backup")
            }
            Meaning::ForeignRows => format!(
                "rows in {name} hold what flowstream never writes: {message}; restore the \
                 database from a backup"
            ),
            Meaning::LoginRefused
            | Meaning::SettingRefused
            | Meaning::Unsupported
            | Meaning::TransactionFailed
            | Meaning::LeaseLost
            | Meaning::AlreadyDone
            | Meaning::OtherDatabase
            | Meaning::Unexpected => format!(
                "{name} reports an error that flowstream does not expect: {message} (SQLSTATE \
                 {code}); look into the log of the server"
            ),
        }
    }

    /// Why a statement in a transaction of the application failed. The transaction is lost with it.
    pub(super) fn explain_in_transaction(&self, fail: Fail) -> Error {
        let text = match fail.meaning() {
            Meaning::OtherDatabase | Meaning::SchemaIncomplete => {
                return Error::invalid(format!(
                    "the transaction is in another database than the storage, which is in the schema \
                     {} in {}, or that has failed over since: this one can only be rolled back; begin \
                     another one there",
                    self.schema,
                    self.name()
                ));
            }
            // Where the constraint is checked at once.
            Meaning::LeaseLost => {
                return Error::new(
                    ErrorKind::Fenced,
                    "the lease of the delivery was lost: the transaction can only be rolled back",
                );
            }
            Meaning::AlreadyDone => {
                return Error::invalid(
                    "another transaction has done the delivery: this one can only be rolled back",
                );
            }
            Meaning::TransactionFailed => {
                return Error::invalid(
                    "an earlier statement of the transaction has failed: it can only be rolled back",
                );
            }
            _ if fail.fate() == Fate::Outdated => {
                "the schema of the storage was changed meanwhile: the transaction can only be rolled back; \
                 begin again"
            }
            Meaning::GivenUp => {
                "the transaction collided with another one, and can only be rolled back: begin again"
            }
            _ => return self.explain(fail, Access::Read),
        };
        Error::new(ErrorKind::Unavailable, text).with_source(self.explain(fail, Access::Read))
    }

    fn doubtful(&self, error: Error, access: Access) -> Error {
        match access {
            Access::Read => error,
            Access::Write => error.with_doubt(),
        }
    }

    /// What went wrong with a connection, in a few words.
    fn cause(&self, error: &sqlx::Error) -> String {
        self.scrub(&match error {
            sqlx::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        })
    }
}

/// What kind of error it is that a statement failed with this.
fn kind_of_statement(meaning: Meaning) -> ErrorKind {
    match meaning {
        Meaning::ReadOnly
        | Meaning::TransactionTookTooLong
        | Meaning::GivenUp
        | Meaning::DuplicateKey
        | Meaning::ServerUnable
        | Meaning::ProtocolViolation => ErrorKind::Unavailable,
        Meaning::NoSuchDatabase | Meaning::NotInEncoding => ErrorKind::Invalid,
        Meaning::LacksRights | Meaning::SchemaIncomplete => ErrorKind::Unsupported,
        Meaning::DatabaseDamaged | Meaning::ForeignRows => ErrorKind::Data,
        Meaning::LoginRefused
        | Meaning::SettingRefused
        | Meaning::Unsupported
        | Meaning::TransactionFailed
        | Meaning::LeaseLost
        | Meaning::AlreadyDone
        | Meaning::OtherDatabase
        | Meaning::Unexpected => ErrorKind::Internal,
    }
}

/// How far the commit of a transaction of the application had come when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitStep {
    /// COMMIT was not sent.
    Before,
    Committing,
}

/// Why a transaction of the application could not commit. No [`Server`] is known there: a transaction does
/// not say which storage it has to do with.
pub(crate) fn explain_commit(error: &sqlx::Error, step: CommitStep) -> Error {
    let (meaning, message, has_ended) = match error {
        sqlx::Error::Database(said) => {
            let meaning = Meaning::of(&said.code().unwrap_or_default());
            (meaning, said.message(), Fate::of(&**said) == Fate::Ends)
        }
        _ => (Meaning::Unexpected, "", true),
    };
    let of = |kind, text: &str| Error::new(kind, text).with_source(Said::of(error));
    match meaning {
        Meaning::TransactionFailed => of(
            ErrorKind::Invalid,
            "the transaction was rolled back, because an earlier statement of it had failed: see what \
             that said, and begin again",
        ),
        Meaning::LeaseLost => of(
            ErrorKind::Fenced,
            "the transaction was rolled back, because the lease of a delivery that it commits was \
             lost: the message reaches the new owner",
        ),
        Meaning::AlreadyDone => of(
            ErrorKind::Invalid,
            "the transaction was rolled back, because another one has done a delivery that it commits: \
             nothing is left to do for this one",
        ),
        Meaning::GivenUp => of(
            ErrorKind::Unavailable,
            "the transaction was rolled back, because it collided with another one: begin again",
        ),
        // Also where the server ended a session that idled in its transaction, or took too long for it.
        _ if has_ended => match step {
            CommitStep::Before => of(
                ErrorKind::Unavailable,
                "the connection broke before a transaction could commit, and nothing of it was \
                 written: begin again",
            ),
            CommitStep::Committing => of(
                ErrorKind::Unavailable,
                "the connection broke while a transaction committed: look whether what it wrote is \
                 there before it begins again",
            )
            .with_doubt(),
        },
        _ => of(
            ErrorKind::Invalid,
            &format!(
                "the server rolled the transaction back instead of committing it: {message}; mend \
                 that, and begin again"
            ),
        ),
    }
}

/// Whether the two could not agree on TLS: a certificate that is not trusted is an error of input.
fn is_of_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}
