//! The statements of a storage, made ready for its schema.

use std::sync::Arc;

use super::fail::Access;
use super::full_names::with_full_names;
use super::options::PostgresOptions;
use super::settings;
use super::template::for_schema;

/// The statements, for the schema.
pub(super) struct Statements {
    /// What each statement of the storage begins with, and no other of this server.
    pub(super) mark: String,
    pub(super) cancel: Statement,
    pub(super) append_fast: Statement,
    pub(super) append_plain: Statement,
    pub(super) append_one: Statement,
    pub(super) append_many: Statement,
    pub(super) settle: Statement,
    pub(super) read: Statement,
    pub(super) bounds: Statement,
    pub(super) observe: Statement,
    pub(super) notify: Statement,
    pub(super) create_stream: Statement,
    pub(super) streams_near: Statement,
    pub(super) create_group: Statement,
    pub(super) claim: Statement,
    pub(super) commit_fast: Statement,
    pub(super) commit: Statement,
    pub(super) release: Statement,
    pub(super) groups: Statement,
    pub(super) reset: Statement,
    pub(super) trim: Statement,
    pub(super) sweep: Statement,
    pub(super) identity: Statement,
    pub(super) ended_transactions: Statement,
    pub(super) move_outbox: Statement,
    // These go within a transaction of the application.
    pub(super) append_one_in: Arc<str>,
    pub(super) append_many_in: Arc<str>,
    pub(super) commit_in: Arc<str>,
}

/// A statement in a session of the storage, or in a message of its own.
#[derive(Clone)]
pub(super) struct Statement {
    pub(super) text: Arc<str>,
    pub(super) access: Access,
}

impl Statements {
    /// `tag` is what distinguishes the storage from others at the server. What the functions lock, they say
    /// in the schema.
    pub(super) fn new(options: &PostgresOptions, limits_transactions: bool, tag: &str) -> Self {
        let mark = format!("/* flowstream {tag} */ ");
        let settings = match options.is_pooled {
            true => settings::of_a_message(options, limits_transactions),
            false => String::new(),
        };
        let statement = |sql: &str, access| {
            let sql = for_schema(&to_be_sent(sql), &options.schema);
            Statement {
                text: format!("{mark}{settings}{sql}").into(),
                access,
            }
        };
        let write = |sql: &str| statement(sql, Access::Write);
        let read = |sql: &str| statement(sql, Access::Read);
        let within = |sql: &str| for_schema(&to_be_sent(sql), &options.schema).into();
        Self {
            cancel: read(include_str!("sql/cancel.sql")),
            append_fast: write(include_str!("sql/append_fast.sql")),
            append_plain: write(include_str!("sql/append_plain.sql")),
            append_one: write(include_str!("sql/append_one.sql")),
            append_many: write(include_str!("sql/append_many.sql")),
            settle: write(
                "SELECT outcome, ord, base_offset, NULL::bigint FROM {schema}.settle($1, $2, $3)",
            ),
            read: read(include_str!("sql/read.sql")),
            bounds: read(include_str!("sql/bounds.sql")),
            observe: read(include_str!("sql/observe.sql")),
            notify: read(include_str!("sql/notify.sql")),
            create_stream: write("SELECT {schema}.create_stream($1, $2)"),
            streams_near: read(include_str!("sql/streams_near.sql")),
            create_group: write(include_str!("sql/create_group.sql")),
            claim: write(
                "SELECT current_setting('transaction_isolation') = 'read committed', c.* \
                 FROM {schema}.claim($1, $2, $3, $4, $5, $6, $7, $8) c",
            ),
            commit_fast: write(include_str!("sql/commit_fast.sql")),
            commit: write(
                r#"SELECT "position", acked FROM {schema}.commit($1, $2, $3, $4, $5, $6, $7, $8)
                   WHERE "position" IS NOT NULL"#,
            ),
            release: write(include_str!("sql/release.sql")),
            groups: read(include_str!("sql/groups.sql")),
            reset: write(include_str!("sql/reset.sql")),
            trim: write("SELECT {schema}.trim($1, $2, $3)"),
            sweep: write("SELECT {schema}.sweep($1, $2, $3, $4)"),
            identity: read("SELECT {schema}.incarnation()::text"),
            ended_transactions: read(include_str!("sql/ended_transactions.sql")),
            move_outbox: write(include_str!("sql/move_outbox.sql")),
            append_one_in: within(include_str!("sql/append_one_in.sql")),
            append_many_in: within(include_str!("sql/append_many_in.sql")),
            commit_in: within(include_str!("sql/commit_in.sql")),
            mark,
        }
    }
}

/// The SQL of a file as it is sent, without comments: what it locks, and why, is for those who read the
/// file.
fn to_be_sent(sql: &str) -> String {
    let is_comment = |line: &&str| line.trim_start().starts_with("--");
    let lines = sql.lines().filter(|line| !is_comment(line));
    with_full_names(&lines.collect::<Vec<&str>>().join("\n"))
}
