//! Servers that somebody else configured: everything works under settings of the role, the database and
//! the server that nobody chose for streams, by connections of the storage's own, through a pooler, and
//! in a pool of the application. What cannot work says so.

#![cfg(feature = "postgres")]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use postgres_support::{Bouncer, Cluster};

mod hostile;
mod in_the_way;
mod names;
#[path = "../postgres_support/mod.rs"]
mod postgres_support;
mod refusals;
mod settings;
mod table;
mod versions;
mod work;

/// One server for all, which is itself not as it comes.
pub(crate) fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::start_with(&[
            ("allow_in_place_tablespaces", "on"),
            ("max_connections", "600"),
            ("wal_level", "logical"),
            ("track_commit_timestamp", "on"),
            ("max_prepared_transactions", "5"),
            ("autovacuum_naptime", "1s"),
            ("autovacuum_vacuum_threshold", "5"),
            ("autovacuum_vacuum_insert_threshold", "5"),
        ]);
        cluster.psql("postgres", "CREATE TABLESPACE elsewhere LOCATION ''");
        cluster
    })
}

/// `None` where pgbouncer is not installed.
pub(crate) fn bouncer() -> Option<&'static Bouncer> {
    static BOUNCER: OnceLock<Option<Bouncer>> = OnceLock::new();
    let bouncer = BOUNCER.get_or_init(|| Bouncer::start(cluster()));
    bouncer.as_ref()
}

/// Such as 150018.
pub(crate) fn version() -> u32 {
    let version = cluster().psql("postgres", "SHOW server_version_num");
    version.trim().parse().expect("a number")
}

/// A new database, made as these words of `CREATE DATABASE` say: its name.
pub(crate) fn database(as_it_is_made: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("set{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    cluster().psql(
        "postgres",
        &format!("CREATE DATABASE {name} {as_it_is_made}"),
    );
    name
}

/// The words for one in this encoding.
pub(crate) fn encoded_in(encoding: &str) -> String {
    format!("TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'")
}
