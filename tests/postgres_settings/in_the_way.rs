//! Schemas that are somebody else's.

use flowstream::storage::{PostgresOptions, PostgresStorage, schema_sql};
use flowstream::{Error, ErrorKind};

use crate::{cluster, database};

async fn refusal(database: &str, options: PostgresOptions) -> Error {
    let opened = PostgresStorage::connect(&cluster().url(database), options).await;
    opened.map(drop).expect_err("it does not open")
}

/// They were tried, and what the server said then was called a defect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_of_the_server_are_no_place() {
    let database = database("");
    for schema in [
        "information_schema",
        "pg_catalog",
        "pg_toast",
        "pg_temp",
        "pg_mine",
    ] {
        let options = PostgresOptions::new().schema(schema);
        assert_eq!(schema_sql(&options).unwrap_err().kind(), ErrorKind::Invalid);
        let error = refusal(&database, options).await;
        assert_eq!(error.kind(), ErrorKind::Invalid, "{schema}: {error}");
        assert!(error.to_string().contains(schema), "{error}");
    }
}

/// The server's own words were given as a defect of this crate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_application_has_there_is_named() {
    for (made, named) in [
        ("TABLE {s}.streams (id int)", "streams"),
        ("TABLE {s}.outbox (id int)", "outbox"),
        ("VIEW {s}.messages AS SELECT 1", "messages"),
        ("TYPE {s}.acks AS ENUM ('a')", "acks"),
        (
            "FUNCTION {s}.ack_lock_key(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
            "ack_lock_key",
        ),
        (
            "TABLE {s}.version (version text); INSERT INTO {s}.version VALUES ('1.2')",
            "version",
        ),
        ("TABLE {s}.version (number int)", "version"),
        (
            "TABLE {s}.version (version int); INSERT INTO {s}.version VALUES (1)",
            "version",
        ),
        (
            "TABLE {s}.version (version int); INSERT INTO {s}.version VALUES (7)",
            "version",
        ),
        ("TABLE {s}.version (version int)", "version"),
        ("VIEW {s}.version AS SELECT 'a' AS version", "version"),
    ] {
        for (make, schema) in [("", "public"), ("CREATE SCHEMA shop; ", "shop")] {
            let database = database("");
            let made = format!("{make}CREATE {}", made.replace("{s}", schema));
            cluster().psql(&database, &made);
            let error = refusal(&database, PostgresOptions::new().schema(schema)).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{made}: {error}");
            let text = error.to_string();
            for word in [named, schema, "PostgresOptions::schema"] {
                assert!(text.contains(word), "{made}: {text}");
            }
            // It is as it was.
            let there = format!(
                "SELECT count(*) FROM pg_class WHERE relname IN ('batches', 'leases')
                 AND relnamespace = '{schema}'::regnamespace"
            );
            assert_eq!(cluster().psql(&database, &there).trim(), "0", "{made}");
        }
    }
}

/// Beside what is not in the way it works, also in `public`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_way_stays() {
    let database = database("");
    cluster().psql(&database, "CREATE TABLE orders (version int)");
    for _ in 0..2 {
        let options = PostgresOptions::new().schema("public");
        let opened = PostgresStorage::connect(&cluster().url(&database), options).await;
        opened.expect("it opens");
    }
    cluster().psql(&database, "INSERT INTO orders VALUES (1)");
}
