//! The settings.

use crate::version;

/// What is set, and how.
pub(crate) struct Setting {
    pub(crate) name: String,
    /// Words of `CREATE DATABASE`.
    pub(crate) database: String,
    /// What is run before anything is opened, one statement each, in the database.
    pub(crate) sql: Vec<String>,
    /// The name of the stream, which the encoding of the database can write.
    pub(crate) stream: &'static str,
}

/// Settings of a database, as roles have them too.
const SET: &[&str] = &[
    "bytea_output = escape",
    "DateStyle = 'German, DMY'",
    "IntervalStyle = sql_standard",
    "IntervalStyle = iso_8601",
    "TimeZone = 'Asia/Kathmandu'",
    "TimeZone = '<-12>12'",
    "client_encoding = LATIN1",
    "default_transaction_isolation = 'read uncommitted'",
    "default_transaction_isolation = 'repeatable read'",
    "default_transaction_isolation = serializable",
    "default_transaction_isolation = serializable; default_transaction_deferrable = on",
    "standard_conforming_strings = off; backslash_quote = on",
    "quote_all_identifiers = on",
    "transform_null_equals = on",
    "array_nulls = off",
    "extra_float_digits = -15",
    "session_replication_role = replica",
    "row_security = off",
    "check_function_bodies = off",
    "synchronous_commit = off",
    "synchronous_commit = remote_apply",
    "commit_delay = 1000; commit_siblings = 0",
    "wal_compression = on",
    "plan_cache_mode = force_custom_plan",
    "plan_cache_mode = force_generic_plan",
    "jit = on; jit_above_cost = 0; jit_inline_above_cost = 0; jit_optimize_above_cost = 0",
    "enable_indexscan = off; enable_indexonlyscan = off; enable_bitmapscan = off",
    "enable_nestloop = off; enable_sort = off; enable_hashagg = off; enable_material = off",
    "from_collapse_limit = 1; join_collapse_limit = 1; geqo_threshold = 2",
    "random_page_cost = 10000; cpu_tuple_cost = 100; default_statistics_target = 1",
    "work_mem = '64kB'; maintenance_work_mem = '1MB'; temp_buffers = '800kB'",
    "max_stack_depth = '100kB'",
    "statement_timeout = '500ms'",
    "lock_timeout = '1ms'",
    "idle_in_transaction_session_timeout = '60s'",
    "idle_session_timeout = '1s'",
    "client_min_messages = debug5",
    "client_min_messages = error",
    "log_statement = 'all'; log_duration = on; debug_print_plan = on; client_min_messages = log",
    "default_toast_compression = pglz",
    "track_activities = off; track_counts = off",
    "track_functions = 'all'",
    "lc_messages = 'POSIX'; lc_numeric = 'POSIX'; lc_time = 'POSIX'",
    "search_path = ''",
    "default_tablespace = elsewhere; temp_tablespaces = elsewhere",
    "default_tablespace = nowhere",
    "default_table_access_method = nowhere",
    "application_name = 'ein ganz anderer Name'",
    "deadlock_timeout = '10ms'",
    "exit_on_error = on",
];

/// Those of servers from this version on.
const SET_SINCE: &[(u32, &str)] = &[
    (15_00_00, "stats_fetch_consistency = snapshot"),
    (17_00_00, "transaction_timeout = '30s'"),
];

const ENCODINGS: &[(&str, &str)] = &[
    ("UTF8", "Ünï/çødé 🦀"),
    ("SQL_ASCII", "Ünï/çødé 🦀"),
    ("LATIN1", "größe"),
    ("LATIN2", "zażółć"),
    ("LATIN9", "€uro"),
    ("WIN1251", "заказы"),
    ("WIN1252", "größe"),
    ("KOI8R", "заказы"),
    ("EUC_JP", "注文"),
    ("EUC_JIS_2004", "注文"),
    ("EUC_KR", "주문"),
    ("EUC_CN", "订单"),
    ("EUC_TW", "訂單"),
];

/// What else a database may have.
const MADE: &[(&str, &[&str])] = &[
    ("nothing is set", &[]),
    (
        "a publication for all tables",
        &["CREATE PUBLICATION everything FOR ALL TABLES"],
    ),
    ("there is no schema public", &["DROP SCHEMA public CASCADE"]),
    (
        "an event trigger writes down what is made",
        &[
            "CREATE TABLE public.made (what text PRIMARY KEY)",
            "CREATE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$
             BEGIN
                INSERT INTO public.made SELECT DISTINCT object_identity
                FROM pg_event_trigger_ddl_commands() WHERE object_identity IS NOT NULL
                ON CONFLICT DO NOTHING;
             END $$",
            "CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION public.note()",
        ],
    ),
    (
        "tables are made another way",
        &[
            "CREATE ACCESS METHOD another TYPE TABLE HANDLER heap_tableam_handler",
            "ALTER DATABASE {database} SET default_table_access_method = another",
        ],
    ),
    (
        "functions are not for everybody",
        &["ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"],
    ),
    (
        "another role is taken on",
        &[
            "CREATE ROLE {database}_owner",
            "GRANT CREATE ON DATABASE {database} TO {database}_owner",
            "ALTER ROLE postgres IN DATABASE {database} SET role = {database}_owner",
        ],
    ),
];

/// All that this server knows.
pub(crate) fn all() -> Vec<Setting> {
    let mut all: Vec<Setting> = Vec::new();
    for (name, sql) in MADE {
        let sql = sql.iter().map(|sql| (*sql).to_owned()).collect();
        all.push(Setting::new(name, sql));
    }
    for (encoding, stream) in ENCODINGS {
        let mut setting = Setting::new(&format!("encoding {encoding}"), Vec::new());
        setting.database = crate::encoded_in(encoding);
        setting.stream = stream;
        all.push(setting);
    }
    let version = version();
    let since = SET_SINCE.iter().filter(|(since, _)| version >= *since);
    let known = SET
        .iter()
        .copied()
        .chain(since.map(|(_, settings)| *settings));
    all.extend(known.map(set));
    // It has another name by now.
    let always = if version >= 16_00_00 {
        "debug_parallel_query"
    } else {
        "force_parallel_mode"
    };
    all.push(set(&format!(
        "{always} = on; parallel_setup_cost = 0; parallel_tuple_cost = 0; \
         min_parallel_table_scan_size = 0; max_parallel_workers_per_gather = 4"
    )));
    all.extend(crate::hostile::settings());
    all
}

impl Setting {
    pub(crate) fn new(name: &str, sql: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            database: String::new(),
            sql,
            stream: "orders",
        }
    }
}

fn set(settings: &str) -> Setting {
    let each = settings.split("; ");
    let sql = each.map(|each| format!("ALTER DATABASE {{database}} SET {each}"));
    Setting::new(settings, sql.collect())
}
