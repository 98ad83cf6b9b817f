//! The schema: its name, and making it at open.

use sqlx::postgres::PgConnection;
use sqlx::{Executor, Row};

use super::fail::{Access, Fail};
use super::options::PostgresOptions;
use super::server::Server;
use super::settings::message;
use super::sqlstate::{
    DUPLICATE_FUNCTION, DUPLICATE_OBJECT, DUPLICATE_SCHEMA, DUPLICATE_TABLE,
    INSUFFICIENT_PRIVILEGE, INVALID_SCHEMA_NAME, SERIALIZATION_FAILURE, UNDEFINED_COLUMN,
    UNDEFINED_TABLE, UNIQUE_VIOLATION,
};
use super::template::for_schema;
use super::timeouts::within;
use crate::error::{Error, ErrorKind, Result};

/// What makes each version out of the one before, in the order in which its parts need each other;
/// the first out of nothing. What was published stays as it is: a change is one more step.
const STEPS: &[&[&str]] = &[&[
    include_str!("sql/schema/tables.sql"),
    include_str!("sql/schema/functions.sql"),
    include_str!("sql/schema/members.sql"),
    include_str!("sql/schema/streams.sql"),
    include_str!("sql/schema/acks.sql"),
    include_str!("sql/schema/progress.sql"),
    include_str!("sql/schema/append.sql"),
    include_str!("sql/schema/outbox.sql"),
    include_str!("sql/schema/read.sql"),
    include_str!("sql/schema/groups.sql"),
    include_str!("sql/schema/trim.sql"),
    include_str!("sql/schema/view.sql"),
    include_str!("sql/schema/compression.sql"),
]];

/// The version that this code reads and writes.
const VERSION: i32 = STEPS.len() as i32;

/// The SQL that makes the schema, or brings an older one up to date: for those who open a storage
/// with a role that has no right to do so. It is one statement; run it with any client, as often as
/// you like. On a schema that is newer it changes nothing.
///
/// A role that produces and consumes needs no more than the following, granted again after each
/// update:
///
/// ```sql
/// GRANT USAGE ON SCHEMA flowstream TO app;
/// GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA flowstream TO app;
/// GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA flowstream TO app;
/// ```
///
/// and CONNECT on the database. Who only reads the view `messages` needs USAGE, EXECUTE and SELECT.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) for a name of a schema that is not allowed.
pub fn schema_sql(options: &PostgresOptions) -> Result<String> {
    check_name(&options.schema)?;
    Ok(for_schema(&migration(STEPS), &options.schema))
}

fn migration(steps: &[&[&str]]) -> String {
    let mut sql = include_str!("sql/schema/begin.sql").to_owned();
    for (version, parts) in (1..).zip(steps) {
        sql += &format!("    IF found < {version} THEN\n\n");
        sql.extend(parts.iter().copied());
        sql += "    END IF;\n\n";
    }
    sql += include_str!("sql/schema/end.sql");
    sql.replace("{version}", &steps.len().to_string())
}

pub(super) fn check_name(schema: &str) -> Result<()> {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    let mut letters = schema.chars();
    let is_allowed = schema.len() <= 48
        && letters.next().is_some_and(is_letter)
        && letters.all(|c| is_letter(c) || c.is_ascii_digit())
        && !schema.starts_with("pg_")
        && schema != "information_schema";
    if is_allowed {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{schema:?} cannot be the name of the schema: use letters, digits and _, at most 48, and none \
         of the server's own, which are information_schema and those that begin with pg_"
    )))
}

/// What is found in a schema.
enum Found {
    Nothing,
    Version(i32),
    /// Somebody else's: what it is.
    Strange(String),
}

/// Checks the schema, and makes or migrates it where that is needed and allowed, within the time
/// of a statement.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    server: &Server,
    options: &PostgresOptions,
) -> Result<()> {
    let prepared = within(options.deadline(), prepare_now(connection, server, options)).await;
    prepared.unwrap_or_else(|| Err(server.explain(Fail::Late, Access::Read)))
}

async fn prepare_now(
    connection: &mut PgConnection,
    server: &Server,
    options: &PostgresOptions,
) -> Result<()> {
    let explain = |error| server.explain(Fail::Running(error), Access::Read);
    let schema = &options.schema;
    // What was in the way when it was to be made.
    let mut made: Option<Option<String>> = None;
    // The second look is at what was made, by this process or by another.
    loop {
        let found = find(connection, options).await.map_err(explain)?;
        match (found, made) {
            (Found::Version(VERSION), _) => return Ok(()),
            (Found::Version(version), _) if version > VERSION => {
                let text = format!(
                    "the schema {schema} in {} has the version {version}, and this flowstream knows \
                     {VERSION} at most: update flowstream",
                    server.name()
                );
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            (Found::Strange(what), _) | (_, Some(Some(what))) => {
                return Err(in_the_way(server, schema, &what));
            }
            (_, None) if options.migrates => {}
            _ => return Err(missing(server, schema, "and was not to be made")),
        }
        made = Some(make(connection, server, options).await?);
    }
}

async fn find(
    connection: &mut PgConnection,
    options: &PostgresOptions,
) -> Result<Found, sqlx::Error> {
    let sql = for_schema(include_str!("sql/find.sql"), &options.schema);
    let finding = message(connection, options, &sql);
    let row = match connection.fetch_optional(finding).await {
        Ok(row) => row,
        Err(sqlx::Error::Database(error)) => {
            return match error.code().as_deref() {
                Some(UNDEFINED_TABLE | INVALID_SCHEMA_NAME) => Ok(Found::Nothing),
                Some(UNDEFINED_COLUMN) => Ok(Found::Strange(error.message().to_owned())),
                _ => Err(sqlx::Error::Database(error)),
            };
        }
        Err(error) => return Err(error),
    };
    let strange = || Found::Strange("its version is another application's".to_owned());
    let Some(row) = row else {
        return Ok(strange());
    };
    let (version, is_ours): (Option<String>, bool) = (row.try_get(0)?, row.try_get(1)?);
    let version = version.and_then(|version| version.parse().ok());
    Ok(match version {
        Some(version) if is_ours => Found::Version(version),
        _ => strange(),
    })
}

/// Makes the schema; or says what is in the way.
async fn make(
    connection: &mut PgConnection,
    server: &Server,
    options: &PostgresOptions,
) -> Result<Option<String>> {
    const ATTEMPTS: u32 = 10;
    let sql = schema_sql(options)?;
    for attempt in 1.. {
        let making = message(connection, options, &sql);
        let Err(error) = connection.execute(making).await else {
            break;
        };
        let fail = Fail::Running(error);
        match fail.code().as_deref() {
            // Another made it meanwhile, seen through an older snapshot.
            Some(SERIALIZATION_FAILURE | UNIQUE_VIOLATION | DUPLICATE_SCHEMA)
                if attempt < ATTEMPTS => {}
            Some(DUPLICATE_TABLE | DUPLICATE_OBJECT | DUPLICATE_FUNCTION) => {
                return Ok(Some(fail.said()));
            }
            Some(INSUFFICIENT_PRIVILEGE) => {
                return Err(missing(
                    server,
                    &options.schema,
                    "and the role may not make it",
                ));
            }
            _ => return Err(server.explain(fail, Access::Read)),
        }
    }
    Ok(None)
}

fn in_the_way(server: &Server, schema: &str, what: &str) -> Error {
    Error::invalid(format!(
        "the schema {schema} in {} has something of another application in it: {what}; give flowstream \
         a schema of its own, with PostgresOptions::schema",
        server.name()
    ))
}

fn missing(server: &Server, schema: &str, why: &str) -> Error {
    let text = format!(
        "the schema {schema} is not in {}, or too old, {why}: let somebody who may run the SQL that \
         Flowstream::schema_sql() gives (CREATE SCHEMA, and what is in it), and then, for this role: {}",
        server.name(),
        server.grants()
    );
    Error::new(ErrorKind::Unsupported, text)
}

#[cfg(test)]
#[path = "../../../tests/postgres_support/mod.rs"]
#[allow(clippy::disallowed_methods, reason = "a test waits for a server")]
mod postgres_support;

#[cfg(test)]
mod tests {
    use super::postgres_support::Cluster;
    use super::*;

    const NEXT: &[&str] = &[
        "    ALTER TABLE {schema}.streams ADD COLUMN note text DEFAULT 'none';\n",
        "    CREATE FUNCTION {schema}.note(id int) RETURNS text LANGUAGE sql STABLE BEGIN ATOMIC
            SELECT s.note FROM {schema}.streams s WHERE s.stream_id = id;
        END;\n",
    ];
    const BROKEN: &[&str] = &["    DROP TABLE {schema}.streams;\n    PERFORM 1 / 0;\n"];

    /// Databases in another encoding refused a comment.
    #[test]
    fn the_schema_is_ascii() {
        assert!(migration(STEPS).is_ascii());
        assert!(include_str!("sql/find.sql").is_ascii());
    }

    fn sql(steps: &[&[&str]]) -> String {
        for_schema(&migration(steps), "flowstream")
    }

    /// Each version is made by one step, as a whole or not at all, and keeps what is there.
    #[tokio::test]
    async fn steps_lead_from_version_to_version() {
        let cluster = Cluster::start_new();
        let (now, next) = (sql(STEPS), sql(&[STEPS, &[NEXT]].concat()));
        let version = "SELECT version FROM flowstream.version";
        let (first, second) = (VERSION.to_string(), (VERSION + 1).to_string());

        let database = cluster.database();
        cluster.psql(&database, &now);
        cluster.psql(&database, "SELECT flowstream.create_stream('orders', 3)");
        let broken = sql(&[STEPS, &[NEXT, BROKEN]].concat());
        assert!(cluster.try_psql(&database, &broken).is_err());
        assert_eq!(cluster.psql(&database, version).trim(), first);
        // The second time there is nothing to do.
        for _ in 0..2 {
            cluster.psql(&database, &next);
        }
        assert_eq!(cluster.psql(&database, version).trim(), second);
        let kept = "SELECT name, partitions, flowstream.note(stream_id) FROM flowstream.streams";
        assert_eq!(cluster.psql(&database, kept).trim(), "orders|3|none");
        // The older one leaves the newer alone.
        cluster.psql(&database, &now);
        assert_eq!(cluster.psql(&database, version).trim(), second);

        // Out of nothing, and out of a schema that somebody made for it.
        for before in ["SELECT 1", "CREATE SCHEMA flowstream"] {
            let database = cluster.database();
            cluster.psql(&database, before);
            cluster.psql(&database, &next);
            assert_eq!(cluster.psql(&database, version).trim(), second);
            cluster.psql(&database, kept);
        }
    }
}
