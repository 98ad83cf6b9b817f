//! Of a group.

use flowstream::{Flowstream, Message};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::place::{Place, REPEATABLE, assert_kept_out, is_collision, waiting};

const SQL: &str = include_str!("../../src/storage/postgres/sql/commit_fast.sql");

const FUNCTION: &str = r#"SELECT "position", acked
     FROM {schema}.commit($1, $2, $3, $4, $5, $6, '{}', '{}') WHERE "position" IS NOT NULL"#;

const OWNER: Uuid = Uuid::from_u128(7);

/// The position; where the acked ranges begin, and then where they end.
type Given = (i64, Option<Vec<i64>>);

/// A group whose lease has epoch 1.
async fn group(place: &Place, name: &str) {
    let flow = flowstream::open(&place.url()).await.unwrap();
    drop(flow.consumer("orders", name).await.unwrap());
    flow.close().await.unwrap();
    place.psql(&format!(
        "SELECT flowstream.claim('orders', 0, '{name}', '{OWNER}', NULL, NULL, NULL, false)"
    ));
}

/// What the owner commits, and how the group stands then; nothing if that is not the way.
async fn commit(
    session: &mut PgConnection,
    sql: &str,
    name: &str,
    done: &str,
) -> Result<Option<Given>, sqlx::Error> {
    let sql = sql.replace("{schema}", "flowstream");
    let commit = sqlx::query_as(AssertSqlSafe(sql))
        .bind("orders")
        .bind(0)
        .bind(name)
        .bind(OWNER)
        .bind(1_i64)
        .bind(done);
    commit.fetch_optional(session).await
}

/// What the commit of 0 up to 9 gives that waits for the lock of this one.
async fn commit_behind(
    place: &Place,
    other: PgConnection,
    settings: &str,
) -> Result<Option<Given>, sqlx::Error> {
    let mut session = place.session_with(settings).await;
    let sql = waiting(SQL);
    let commit = commit(&mut session, &sql, "billing", "{[0,9)}");
    place.behind(other, commit).await
}

fn ledger(place: &Place) -> String {
    place.psql(
        "SELECT string_agg(generation || ':' || position, ' ' ORDER BY generation) FROM flowstream.positions",
    )
}

fn call(done: &str) -> String {
    format!(
        "SELECT flowstream.commit('orders', 0, 'billing', '{OWNER}', 1, '{done}', '{{}}', '{{}}');"
    )
}

#[tokio::test]
async fn alone_it_writes_what_the_function_writes() {
    let place = Place::new().await;
    group(&place, "alone").await;
    group(&place, "function").await;
    let mut session = place.session().await;
    let commits = [
        "{[0,1)}",
        "{}",
        "{[3,5),[7,9)}",
        "{[5,6)}",
        "{[0,2)}",
        "{[2,3)}",
        "{[4,8)}",
        "{[20,21)}",
        "{[9,100)}",
        "{[200,9223372036854775807)}",
    ];
    for done in commits {
        let alone = commit(&mut session, SQL, "alone", done).await.unwrap();
        let function = commit(&mut session, FUNCTION, "function", done)
            .await
            .unwrap();
        assert!(alone.is_some());
        assert_eq!(alone, function, "{done}");
    }
    let rows = "SELECT string_agg((generation, position, acked, attempted, attempts)::text, ' ' ORDER BY generation)
                FROM flowstream.positions JOIN flowstream.leases USING (group_id) WHERE name =";
    assert_eq!(
        place.psql(&format!("{rows} 'alone'")),
        place.psql(&format!("{rows} 'function'"))
    );
}

#[tokio::test]
async fn it_waits_for_nobody() {
    let place = Place::new().await;
    group(&place, "billing").await;
    let mut session = place.session().await;
    let lock = "SELECT FROM flowstream.leases FOR UPDATE";
    let other = place.begun(lock).await;
    let answer = commit(&mut session, SQL, "billing", "{[0,9)}").await;
    assert_eq!(answer.unwrap(), None);
    drop(other);
}

#[tokio::test]
async fn what_was_committed_since_its_snapshot_is_in_its_way() {
    let place = Place::new().await;
    group(&place, "billing").await;
    let other = place.begun(&call("{[0,5)}")).await;
    assert_eq!(commit_behind(&place, other, "").await.unwrap(), None);
    let other = place.begun(&call("{[0,6)}")).await;
    assert!(is_collision(commit_behind(&place, other, REPEATABLE).await));
    assert_eq!(ledger(&place), "0:0 1:0 2:5 3:6");
}

#[tokio::test]
async fn it_is_fenced_by_whoever_had_the_lease_since_its_snapshot() {
    let others = [
        format!("SELECT flowstream.release('orders', 0, 'billing', '{OWNER}', 1)"),
        // Whoever takes it over says which generation stood still.
        "SELECT flowstream.claim('orders', 0, 'billing', gen_random_uuid(), NULL, 1, 1, true)"
            .to_owned(),
        "SELECT flowstream.reset('orders', 0, 'billing', 'offset', 0, NULL, true)".to_owned(),
    ];
    for other in others {
        for settings in ["", REPEATABLE] {
            let place = Place::new().await;
            group(&place, "billing").await;
            let other = place.begun(&other).await;
            let answer = commit_behind(&place, other, settings).await;
            assert_kept_out(answer, settings);
            assert_eq!(ledger(&place), "0:0 1:0 2:0");
            let mut session = place.session().await;
            let later = commit(&mut session, SQL, "billing", "{[0,9)}").await;
            assert_eq!(later.unwrap(), None, "fenced");
        }
    }
}

/// The generation that it would write was written since, and deleted, so that there is no conflict.
#[tokio::test]
async fn generations_that_were_deleted_since_its_snapshot_are_not_written_again() {
    for settings in ["", REPEATABLE] {
        let place = Place::new().await;
        group(&place, "billing").await;
        place.psql("UPDATE flowstream.positions SET generation = 1022 WHERE generation = 1");
        let both = call("{[0,5)}") + &call("{[0,6)}");
        let other = place.begun(&both).await;
        let answer = commit_behind(&place, other, settings).await;
        assert_kept_out(answer, settings);
        assert_eq!(ledger(&place), "1024:6");
    }
}

#[tokio::test]
async fn what_needs_more_is_left_to_the_function() {
    let place = Place::new().await;
    group(&place, "billing").await;
    let refused = async |settings: &str| {
        let mut session = place.session_with(settings).await;
        let answer = commit(&mut session, SQL, "billing", "{[0,9)}").await;
        assert_eq!(answer.unwrap(), None);
    };
    refused("SET synchronous_commit = off").await;
    place.psql(
        "UPDATE flowstream.positions SET attempted = '{0}', attempts = '{1}' WHERE generation = 1",
    );
    refused("").await;
    place.psql(
        "UPDATE flowstream.positions SET attempted = '{}', attempts = '{}' WHERE generation = 1",
    );
    place.psql("UPDATE flowstream.positions SET generation = 1023 WHERE generation = 1");
    refused("").await;
    place.psql("UPDATE flowstream.positions SET generation = 1 WHERE generation = 1023");
    let ack = format!(
        "INSERT INTO flowstream.acks (group_id, \"offset\", epoch, owner)
         SELECT group_id, 5, 1, '{OWNER}' FROM flowstream.leases"
    );
    place.psql(&ack);
    refused("").await;
    assert_eq!(ledger(&place), "0:0 1:0");
}

#[tokio::test]
async fn commits_of_a_process_go_this_way() {
    let place = Place::new().await;
    place.count_calls();
    let ours = flowstream::open(&place.url()).await.unwrap();
    let theirs = Flowstream::from_pool(sqlx::PgPool::connect(&place.url()).await.unwrap()).await;
    for (name, flow) in [("ours", ours), ("theirs", theirs.unwrap())] {
        let mut orders = flow.producer("orders").await.unwrap();
        orders
            .append([(); 10].map(|()| Message::new("next")))
            .await
            .unwrap();
        let mut consumer = flow.consumer("orders", name).await.unwrap();
        for _ in 0..10 {
            let delivery = consumer.try_next().await.unwrap().unwrap();
            delivery.commit().await.unwrap();
        }
        consumer.control().shutdown().await;
        flow.close().await.unwrap();
    }
    // Those of the second, and what a release writes.
    place.until_called("advance", 12).await;
}
