//! What can go wrong with the server, and how it reads.
//!
//! No error of sqlx is passed on: its texts may name the role.

use sqlx::ConnectOptions;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};

use super::session::Fate;
use crate::error::{Error, ErrorKind};

/// A server as errors name it: without role and password.
#[derive(Debug, Clone)]
pub(super) struct Server {
    name: String,
    role: String,
    schema: String,
    has_password: bool,
}

/// What a statement that failed was about to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// Why a statement has no answer.
#[derive(Debug)]
pub(super) enum Fail {
    /// There was no connection: it was not sent.
    Connecting(sqlx::Error),
    /// All connections were in use for as long as a call waits for one.
    InUse(Whose, u32),
    Running(sqlx::Error),
    /// No answer within the deadline.
    Late,
}

/// Connections: so many at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those of a pool that the application gave.
    Theirs,
    Ours,
}

/// What the server said, as the source of an error: without its details, which may have values in them.
#[derive(Debug)]
pub(crate) struct Said(String);

impl Said {
    /// What a server said to the application, which no [`Server`] was asked for.
    pub(crate) fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(said) => {
                let code = said.code().unwrap_or_default();
                Self(format!("SQLSTATE {code}: {}", said.message()))
            }
            error => Self(error.to_string()),
        }
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Said {}

impl Fail {
    /// Whether the same statement, sent again, sees what this one collided with.
    pub(super) fn is_collision(&self) -> bool {
        let Self::Running(sqlx::Error::Database(error)) = self else {
            return false;
        };
        match error.code().as_deref() {
            Some("40001") => true,
            Some("23505") => OUR_KEYS.contains(&error.constraint().unwrap_or_default()),
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

    /// Whether it was cancelled, or nobody waited for it any longer.
    pub(super) fn took_too_long(&self) -> bool {
        matches!(self, Self::Late) || self.code().as_deref() == Some("57014")
    }

    /// What the server said, if it said something.
    pub(super) fn said(&self) -> String {
        match self {
            Self::Connecting(sqlx::Error::Database(error))
            | Self::Running(sqlx::Error::Database(error)) => error.message().to_owned(),
            _ => String::new(),
        }
    }

    /// What becomes of the connection.
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

    /// Whether the server refused the login: its code begins so.
    pub(super) fn is_refused_login(&self) -> bool {
        let code = self.code();
        matches!(self, Self::Connecting(_)) && code.is_some_and(|code| code.starts_with("28"))
    }
}

/// Keys on which concurrent calls collide where a snapshot is older than a lock.
const OUR_KEYS: [&str; 8] = [
    "batches_pkey",
    "batches_id",
    "positions_pkey",
    "ids_pkey",
    "floors_pkey",
    "leases_name",
    "streams_name_key",
    "partitions_pkey",
];

impl Server {
    pub(super) fn new(options: &PgConnectOptions, schema: &str) -> Self {
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let database = options.get_database().unwrap_or("the default database");
        Self {
            name: format!("{host}:{}/{database}", options.get_port()),
            role: options.get_username().to_owned(),
            schema: schema.to_owned(),
            has_password: options.to_url_lossy().password().is_some(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn explain(&self, fail: Fail, access: Access) -> Error {
        match fail {
            Fail::Connecting(error) => self.explain_connecting(error),
            Fail::InUse(whose, most) => self.explain_in_use(whose, most),
            Fail::Running(sqlx::Error::Database(error)) => self.explain_said(&*error, access),
            Fail::Running(sqlx::Error::PoolClosed) => crate::storage::group::closed(),
            Fail::Running(
                error @ (sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed),
            ) => {
                let cause = self.cause(&error);
                let text = format!("the connection to {} broke: {cause}; try again", self.name);
                self.doubtful(Error::new(ErrorKind::Unavailable, text), access)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
            Fail::Running(error) => {
                let text = format!(
                    "an answer of {} is not understood: is its schema {} the one of this flowstream?",
                    self.name, self.schema
                );
                Error::new(ErrorKind::Internal, text)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
            Fail::Late => {
                let text = format!(
                    "{} did not answer in time: it is overloaded, or the network drops what is sent; \
                     try again, or allow more with PostgresOptions::statement_timeout",
                    self.name
                );
                self.doubtful(Error::new(ErrorKind::Unavailable, text), access)
            }
        }
    }

    fn explain_in_use(&self, whose: Whose, most: u32) -> Error {
        let what = match whose {
            Whose::Theirs => format!(
                "the application's pool has {most}, and all are in use, or being made: give them back \
                 sooner, or enlarge the pool (PgPoolOptions::max_connections)"
            ),
            Whose::Ours => format!(
                "flowstream has {most} for such calls, and all are in use: the server is slow, or it \
                 takes more (PostgresOptions::max_connections)"
            ),
        };
        let text = format!("no connection to {} became free in time: {what}", self.name);
        Error::new(ErrorKind::Unavailable, text)
    }

    fn explain_connecting(&self, error: sqlx::Error) -> Error {
        let name = &self.name;
        let said = Said(self.scrub(&error.to_string()));
        match error {
            sqlx::Error::PoolClosed => crate::storage::group::closed(),
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
            ("28P01", _) if !self.has_password => {
                "it asks for a password, and none was given: write it into the URL, \
                 postgres://ROLE:PASSWORD@HOST/DATABASE, or set PGPASSWORD"
            }
            ("28P01", _) => {
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
        let text = format!("{} refuses the login: {why}", self.name);
        let message = self.scrub(said.message());
        let is_named = !self.role.is_empty() && message.contains(&self.role);
        Error::invalid(text).with_source(Said(match is_named {
            true => format!("SQLSTATE {code}"),
            false => format!("SQLSTATE {code}: {message}"),
        }))
    }

    /// What connections say at their beginning is refused: that is no matter of time.
    fn explain_refused(&self, said: &dyn DatabaseError) -> Option<Error> {
        let code = said.code().unwrap_or_default();
        let (name, message) = (&self.name, self.scrub(said.message()));
        let is_of_options = ["startup parameter", "command-line options"]
            .iter()
            .any(|words| message.contains(words));
        let (kind, text) = match &*code {
            // Poolers have no code of their own for it.
            "08P01" | "0A000" if is_of_options => (
                ErrorKind::Invalid,
                format!(
                    "{name} takes no settings from connections, as poolers do not: {message}; say so \
                     with PostgresOptions::pooled(true), and leave options out of the URL"
                ),
            ),
            "22023" | "42704" | "55P02" => (
                ErrorKind::Invalid,
                format!("{name} refuses a setting that a connection is to have: {message}"),
            ),
            "0A000" => (
                ErrorKind::Unsupported,
                format!("{name} cannot be connected to: {message}"),
            ),
            _ => return None,
        };
        Some(Error::new(kind, text).with_source(Said(format!("SQLSTATE {code}: {message}"))))
    }

    fn explain_said(&self, said: &(dyn DatabaseError + 'static), access: Access) -> Error {
        let code = said.code().unwrap_or_default().into_owned();
        if code.starts_with("28") {
            return self.explain_login(said);
        }
        let message = self.scrub(said.message());
        let (kind, text) = self.explain_code(&code, &message);
        let error = Error::new(kind, text).with_source(Said(format!("SQLSTATE {code}: {message}")));
        // It may have been told to end between the commit and the answer.
        if Fate::of(said) == Fate::Ends {
            return self.doubtful(error, access);
        }
        error
    }

    fn explain_code(&self, code: &str, message: &str) -> (ErrorKind, String) {
        let name = &self.name;
        match code {
            "25006" => (
                ErrorKind::Unavailable,
                format!(
                    "{name} is read-only, a standby or set so by its administrator: connect to the \
                     primary, or wait until it is one"
                ),
            ),
            "3D000" => (
                ErrorKind::Invalid,
                format!("there is no database as in {name}: create it first (CREATE DATABASE)"),
            ),
            "42501" => (
                ErrorKind::Unsupported,
                format!(
                    "the role lacks rights in {name}: {message}; whoever owns the schema runs, for \
                     this role: {}",
                    self.grants()
                ),
            ),
            "3F000" | "42P01" | "42883" => (
                ErrorKind::Unsupported,
                format!(
                    "the schema {} in {name} is not as it has to be, somebody changed or dropped it: \
                     {message}; where all of it is gone, opening the storage again makes it anew, and \
                     otherwise it has to be restored",
                    self.schema
                ),
            ),
            "25P03" | "25P04" => (
                ErrorKind::Unavailable,
                format!("{name} ended a session whose transaction took too long: {message}"),
            ),
            "40P01" | "57014" | "55P03" | "40001" | "23505" => (
                ErrorKind::Unavailable,
                format!(
                    "{name} gave a statement up, and nothing was written: {message}; try again"
                ),
            ),
            "22P05" | "22021" => (
                ErrorKind::Invalid,
                format!(
                    "the encoding of the database {name} has not all characters of a name: {message}; \
                     use names that it has, or a database in UTF8"
                ),
            ),
            _ if ["08", "53", "57", "58"].contains(&&code[..code.len().min(2)]) => (
                ErrorKind::Unavailable,
                format!("{name} cannot do this now: {message}; try again later"),
            ),
            "XX001" | "XX002" => (
                ErrorKind::Data,
                format!("the database {name} is damaged: {message}; restore it from a backup"),
            ),
            // A number or a range that cannot be, NULL, no row: nothing that flowstream writes leads
            // to these.
            "22000" | "22003" | "22008" | "23502" | "P0002" => (
                ErrorKind::Data,
                format!(
                    "rows in {name} hold what flowstream never writes: {message}; restore the \
                     database from a backup"
                ),
            ),
            _ => (
                ErrorKind::Internal,
                format!(
                    "{name} reports an error that flowstream does not expect: {message} (SQLSTATE \
                     {code}); look into the log of the server"
                ),
            ),
        }
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

    /// What a role needs that produces and consumes, as SQL; `role` stands for its name.
    pub(super) fn grants(&self) -> String {
        let schema = match self.schema.chars().any(|c| c.is_ascii_uppercase()) {
            true => format!("\"{}\"", self.schema),
            false => self.schema.clone(),
        };
        format!(
            "GRANT USAGE ON SCHEMA {schema} TO role; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES \
             IN SCHEMA {schema} TO role; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schema} TO role"
        )
    }

    /// Takes the name of the role out, in whatever quotation marks the server's language has.
    fn scrub(&self, text: &str) -> String {
        const QUOTES: [(&str, &str); 6] = [
            ("\"", "\""),
            ("“", "”"),
            ("„", "“"),
            ("«", "»"),
            ("»", "«"),
            ("« ", " »"),
        ];
        let mut text = text.to_owned();
        if !self.role.is_empty() {
            for (open, close) in QUOTES {
                text = text.replace(&format!("{open}{}{close}", self.role), "(this one)");
            }
        }
        text
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
