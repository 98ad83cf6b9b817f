//! What can go wrong with the server, and how it reads.
//!
//! No error of sqlx is passed on: its texts may name the role.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgConnectOptions;

use crate::error::{Error, ErrorKind};

/// A server as errors name it: without role and password.
#[derive(Debug, Clone)]
pub(super) struct Server {
    name: String,
    role: String,
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
    Running(sqlx::Error),
    /// No answer within the deadline.
    Late,
}

/// What the server said, as the source of an error.
#[derive(Debug)]
struct Said(String);

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

    /// Whether the connection is good for another statement.
    pub(super) fn leaves_connection(&self) -> bool {
        match self {
            Self::Running(sqlx::Error::Database(error)) => {
                !error.code().unwrap_or_default().starts_with("57P")
            }
            Self::Running(error) => matches!(
                error,
                sqlx::Error::ColumnDecode { .. }
                    | sqlx::Error::Decode(_)
                    | sqlx::Error::Encode(_)
                    | sqlx::Error::RowNotFound
            ),
            Self::Connecting(_) | Self::Late => false,
        }
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
    pub(super) fn new(options: &PgConnectOptions) -> Self {
        let host = match options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => options.get_host().to_owned(),
        };
        let database = options.get_database().unwrap_or("the default database");
        Self {
            name: format!("{host}:{}/{database}", options.get_port()),
            role: options.get_username().to_owned(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn explain(&self, fail: Fail, access: Access) -> Error {
        match fail {
            Fail::Connecting(error) => self.explain_connecting(error),
            Fail::Running(sqlx::Error::Database(error)) => self.explain_said(&*error, access),
            Fail::Running(sqlx::Error::PoolClosed) => crate::storage::group::closed(),
            Fail::Running(
                error @ (sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::WorkerCrashed),
            ) => {
                let text = format!("the connection to {} broke", self.name);
                self.doubtful(Error::new(ErrorKind::Unavailable, text), access)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
            Fail::Running(error) => {
                let text = format!("the answer of {} is not understood", self.name);
                Error::new(ErrorKind::Internal, text)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
            Fail::Late => {
                let text = format!("{} did not answer in time", self.name);
                self.doubtful(Error::new(ErrorKind::Unavailable, text), access)
            }
        }
    }

    fn explain_connecting(&self, error: sqlx::Error) -> Error {
        match error {
            sqlx::Error::PoolClosed => crate::storage::group::closed(),
            sqlx::Error::PoolTimedOut => {
                let text = format!(
                    "no connection to {} became free in time: the server cannot be reached, or all \
                     are in use",
                    self.name
                );
                Error::new(ErrorKind::Unavailable, text)
            }
            sqlx::Error::Database(error) => self.explain_said(&*error, Access::Read),
            sqlx::Error::Configuration(_) => {
                let text = format!("{} cannot be connected to as the URL says", self.name);
                Error::invalid(text).with_source(Said(self.scrub(&error.to_string())))
            }
            error if is_of_tls(&error) => {
                let text = format!(
                    "{} cannot be connected to with TLS as sslmode says; TLS is a feature of sqlx, \
                     such as tls-rustls-ring, which the application turns on",
                    self.name
                );
                Error::invalid(text).with_source(Said(self.scrub(&error.to_string())))
            }
            error => {
                let text = format!("{} cannot be reached", self.name);
                Error::new(ErrorKind::Unavailable, text)
                    .with_source(Said(self.scrub(&error.to_string())))
            }
        }
    }

    fn explain_said(&self, said: &dyn DatabaseError, access: Access) -> Error {
        let code = said.code().unwrap_or_default().into_owned();
        let name = &self.name;
        if code.starts_with("28") {
            // Its text names the role.
            let text = format!("{name} refuses the login: check role, password and pg_hba.conf");
            return Error::invalid(text);
        }
        let message = self.scrub(said.message());
        let (kind, text) = match &*code {
            "25006" => (
                ErrorKind::Unavailable,
                format!("{name} is read-only: a standby, or set so by its administrator"),
            ),
            "3D000" => (
                ErrorKind::Invalid,
                format!("there is no database as in {name}: create it first"),
            ),
            "42501" => (
                ErrorKind::Unsupported,
                format!("the role has not all rights in {name}: {message}"),
            ),
            "3F000" | "42P01" | "42883" => (
                ErrorKind::Unsupported,
                format!("the schema in {name} is not as it has to be: {message}; open it again"),
            ),
            "40P01" | "57014" | "55P03" | "40001" | "23505" => (
                ErrorKind::Unavailable,
                format!("{name} gave a statement up, and nothing was written: {message}"),
            ),
            _ if ["08", "53", "57", "58"].contains(&&code[..code.len().min(2)]) => (
                ErrorKind::Unavailable,
                format!("{name} cannot do this now: {message}"),
            ),
            "XX001" | "XX002" => (
                ErrorKind::Data,
                format!("the database {name} is damaged: {message}"),
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
                format!("{name} reports an error: {message}"),
            ),
        };
        let error = Error::new(kind, text).with_source(Said(format!("SQLSTATE {code}: {message}")));
        // It may have been told to end between the commit and the answer.
        if code.starts_with("57P") || code.starts_with("08") {
            return self.doubtful(error, access);
        }
        error
    }

    fn doubtful(&self, error: Error, access: Access) -> Error {
        match access {
            Access::Read => error,
            Access::Write => error.with_doubt(),
        }
    }

    /// Takes the name of the role out.
    fn scrub(&self, text: &str) -> String {
        if self.role.is_empty() {
            return text.to_owned();
        }
        text.replace(&format!("\"{}\"", self.role), "(this one)")
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
