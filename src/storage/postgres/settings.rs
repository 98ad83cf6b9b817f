//! What sessions are told when they begin, and messages that share a session with others.
//!
//! A role, a database or a server may set anything. What a statement of ours means does not depend on
//! it: each session of ours is told what counts, each message through a pooler says it again, and where
//! neither is possible, in a session of the application, functions have it as their own, and statements
//! name what is built in by its full name.

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, RawSql};

use super::options::PostgresOptions;

/// What is built in comes before anything that somebody made; also before tables of the session.
const SEARCH_PATH: &str = "pg_catalog,pg_temp";

/// Where the server may end a session because of the time that a transaction took. Others do not know
/// the setting, and refuse it.
const LIMITS_TRANSACTIONS: u32 = 17_00_00;

/// The options of a connection of ours: quiet, and with timeouts. What the user sets stays, but for what
/// decides what a statement means.
pub(super) fn of_ours(server: PgConnectOptions, options: &PostgresOptions) -> PgConnectOptions {
    let mut server = server.disable_statement_logging();
    if server.get_application_name().is_none() {
        server = server.application_name("flowstream");
    }
    if options.is_pooled {
        // Nothing of a session is ours there, and poolers refuse what they do not know.
        return server.extra_float_digits(None);
    }
    let given = names(server.get_options().unwrap_or_default());
    let timeout = options.statement_timeout.as_millis().to_string();
    let settings = [
        // Functions take their locks first and look then: each look needs a fresh snapshot.
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", &*timeout),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "60s"),
        // One is kept for as long as it may be of use, and after an error as well.
        ("idle_session_timeout", "0"),
        ("exit_on_error", "off"),
        ("tcp_user_timeout", "10s"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        // Every look is by index, as in the functions: see the schema.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        // A look into a large log seems dear to the planner, and is not.
        ("jit", "off"),
    ];
    let ours = settings
        .into_iter()
        .filter(|(name, _)| !given.iter().any(|given| given == name));
    server.options(ours).options([("search_path", SEARCH_PATH)])
}

/// The names of the settings in the options of a connection, as the server reads them: words, each
/// `-c name=value`, `-cname=value` or `--name=value`, where a backslash takes what follows as it is.
fn names(options: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut characters = options.chars();
    while let Some(character) = characters.next() {
        match (character, words.last_mut()) {
            ('\\', Some(word)) => word.extend(characters.next()),
            (space, _) if space.is_ascii_whitespace() => words.push(String::new()),
            (other, Some(word)) => word.push(other),
            (_, None) => {}
        }
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut names = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().unwrap_or_default(),
            Some(setting) => setting.to_owned(),
            None => continue,
        };
        let name = setting.split('=').next().unwrap_or_default();
        names.push(name.trim().to_ascii_lowercase().replace('-', "_"));
    }
    names
}

/// What not every server knows or can do, and from which version on one may: asked for when the session
/// is there, which is no worse without. Unknown or refused at its start there would be no session.
const ASKED_FOR: [(&str, &str, u32); 2] = [
    // A statement whose client is gone ends.
    ("client_connection_check_interval", "5s", 14_00_00),
    // Each statement is a transaction, and has a timeout.
    ("transaction_timeout", "0", LIMITS_TRANSACTIONS),
];

/// Says the rest in a session that has just begun. What the user sets stays.
pub(super) async fn begin(
    session: &mut PgConnection,
    server: &PgConnectOptions,
    is_pooled: bool,
) -> Result<(), sqlx::Error> {
    if is_pooled {
        return Ok(());
    }
    let given = names(server.get_options().unwrap_or_default());
    let version = session.server_version_num().unwrap_or_default();
    for (name, value, since) in ASKED_FOR {
        if version < since || given.iter().any(|given| given == name) {
            continue;
        }
        let set = sqlx::raw_sql(AssertSqlSafe(format!("SET {name} = '{value}'")));
        match set.execute(&mut *session).await {
            Ok(_) | Err(sqlx::Error::Database(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the server may end a session because of the time that a transaction took.
pub(super) fn limits_transactions(connection: &PgConnection) -> bool {
    let version = connection.server_version_num();
    version.is_some_and(|version| version >= LIMITS_TRANSACTIONS)
}

/// What a session of ours is told when it begins, said again in a message, which the server runs as one
/// transaction.
pub(super) fn of_a_message(options: &PostgresOptions, limits_transactions: bool) -> String {
    let timeout = options.statement_timeout.as_millis();
    let unlimited = match limits_transactions {
        true => "SET LOCAL transaction_timeout = 0; ",
        false => "",
    };
    format!(
        "{unlimited}SET LOCAL statement_timeout = '{timeout}ms'; \
         SET LOCAL transaction_isolation = 'read committed'; SET LOCAL lock_timeout = '10s'; \
         SET LOCAL exit_on_error = off; SET LOCAL search_path = {SEARCH_PATH}; \
         SET LOCAL bytea_output = hex; "
    )
}

/// A statement that is sent before anything is known of a session, in whatever one: as one message.
pub(super) fn message(connection: &PgConnection, options: &PostgresOptions, sql: &str) -> RawSql {
    let settings = of_a_message(options, limits_transactions(connection));
    sqlx::raw_sql(AssertSqlSafe(settings + sql))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_settings_are_read_as_the_server_reads_them() {
        for (options, expected) in [
            ("", &[][..]),
            ("-c deadlock_timeout=1s", &["deadlock_timeout"]),
            ("-clock_timeout=1s -c  jit=on", &["lock_timeout", "jit"]),
            ("--lock-timeout=1s\t-c Jit=on", &["lock_timeout", "jit"]),
            (
                r"-c application_name=a\ lock_timeout=1 -c jit=on",
                &["application_name", "jit"],
            ),
            ("-c", &[""]),
            ("-S 4 jit=on", &[]),
        ] {
            assert_eq!(names(options), expected, "{options}");
        }
    }

    /// A setting was left out because another one has a longer name: locks were waited for without an
    /// end where the URL said how soon a deadlock is looked for.
    #[test]
    fn what_the_user_sets_stays_and_nothing_else_is_left_out() {
        let given = [("deadlock_timeout", "1s"), ("jit", "on")];
        let server = PgConnectOptions::new_without_pgpass().options(given);
        let ours = of_ours(server, &PostgresOptions::new());
        let mut names = names(ours.get_options().expect("options"));
        for name in ["deadlock_timeout", "jit", "lock_timeout", "search_path"] {
            assert_eq!(
                names.iter().filter(|other| *other == name).count(),
                1,
                "{name}"
            );
        }
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
