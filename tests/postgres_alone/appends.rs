//! Of one batch.

use flowstream::storage::Id;
use flowstream::{Flowstream, Message};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use crate::place::{Place, REPEATABLE, assert_kept_out, is_collision, waiting};

const SQL: &str = include_str!("../../src/storage/postgres/sql/append_fast.sql");

const ANOTHER: &str = "INSERT INTO flowstream.batches (stream_id, partition, base_offset, count, appended_at, batch_id, bodies)
     SELECT p.stream_id, 0, p.base_offset, 1, p.appended_at, gen_random_uuid(), ''
     FROM flowstream.next_place(gen_random_uuid(), NULL, 'orders', 0) p";

/// The offset, if the append wrote anything.
async fn append(
    session: &mut PgConnection,
    sql: &str,
    id: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    let sql = sql.replace("{schema}", "flowstream");
    let append = sqlx::query_as(AssertSqlSafe(sql))
        .bind(id)
        .bind("orders")
        .bind(0)
        .bind(1)
        .bind([1_u8, 0, 0, 0].as_slice())
        .bind(b"x".as_slice())
        .bind(None::<&[u8]>)
        .bind(None::<&[u8]>);
    let row: Option<(String, i32, i64, i64)> = append.fetch_optional(session).await?;
    Ok(row.map(|(_, _, offset, _)| offset))
}

/// What an append gives that waits for the lock of this one.
async fn append_behind(
    place: &Place,
    other: PgConnection,
    settings: &str,
    id: Uuid,
) -> Result<Option<i64>, sqlx::Error> {
    let mut session = place.session_with(settings).await;
    let sql = waiting(SQL);
    place.behind(other, append(&mut session, &sql, id)).await
}

fn some_id() -> Uuid {
    Uuid::from_u128(Id::random().0)
}

fn offsets(place: &Place) -> String {
    place.psql(
        "SELECT string_agg(base_offset::text, ' ' ORDER BY base_offset) FROM flowstream.batches",
    )
}

#[tokio::test]
async fn alone_it_takes_the_next_offset_once() {
    let place = Place::new().await;
    let (mut session, id) = (place.session().await, some_id());
    let answer = append(&mut session, SQL, id).await;
    assert_eq!(answer.unwrap(), Some(1));
    let again = append(&mut session, SQL, id).await;
    assert_eq!(again.unwrap(), None, "the id is known");
    assert_eq!(offsets(&place), "0 1");
}

#[tokio::test]
async fn it_waits_for_nobody() {
    let place = Place::new().await;
    let mut session = place.session().await;
    let lock = "SELECT FROM flowstream.partitions FOR UPDATE";
    let other = place.begun(lock).await;
    let answer = append(&mut session, SQL, some_id()).await;
    assert_eq!(answer.unwrap(), None);
    drop(other);
}

#[tokio::test]
async fn what_was_appended_since_its_snapshot_is_in_its_way() {
    let (place, id) = (Place::new().await, some_id());
    let other = place.begun(ANOTHER).await;
    let answer = append_behind(&place, other, "", id).await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(offsets(&place), "0 1");
    let other = place.begun(ANOTHER).await;
    assert!(is_collision(
        append_behind(&place, other, REPEATABLE, id).await
    ));
    assert_eq!(offsets(&place), "0 1 2");
}

#[tokio::test]
async fn what_was_refused_since_its_snapshot_is_not_written() {
    for settings in ["", REPEATABLE] {
        let (place, id) = (Place::new().await, some_id());
        let refusal = format!("SELECT flowstream.settle('{id}', ARRAY['orders'], ARRAY[0])");
        let other = place.begun(&refusal).await;
        let answer = append_behind(&place, other, settings, id).await;
        assert_kept_out(answer, settings);
        let mut session = place.session().await;
        let later = append(&mut session, SQL, id).await;
        assert_eq!(later.unwrap(), None, "for ever");
        assert_eq!(offsets(&place), "0");
    }
}

#[tokio::test]
async fn it_is_not_for_sessions_that_lose_what_they_commit() {
    let place = Place::new().await;
    let mut session = place.session_with("SET synchronous_commit = off").await;
    let answer = append(&mut session, SQL, some_id()).await;
    assert_eq!(answer.unwrap(), None);
}

/// The function is called for those in a pool of the application, whose sessions may be set to anything.
#[tokio::test]
async fn single_appends_of_a_process_go_this_way() {
    let place = Place::new().await;
    place.count_calls();
    let ours = flowstream::open(&place.url()).await.unwrap();
    let theirs = Flowstream::from_pool(sqlx::PgPool::connect(&place.url()).await.unwrap()).await;
    for flow in [ours, theirs.unwrap()] {
        let mut orders = flow.producer("orders").await.unwrap();
        for _ in 0..10 {
            orders.append([Message::new("next")]).await.unwrap();
        }
        flow.close().await.unwrap();
    }
    assert_eq!(offsets(&place).split(' ').count(), 21);
    place.until_called("next_place", 10).await;
}
