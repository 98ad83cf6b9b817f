//! Who has lost the lease commits nothing.

use flowstream::postgres::sqlx::{self, Acquire};
use flowstream::postgres::{self, DeliveryExt};
use flowstream::storage::{Claim, Id, Over, Storage};

use crate::rig::{LEVELS, Rig, effect, group, is_refused, next};

/// When the lease is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Taken {
    BeforeTheFirstStatement,
    BeforeTheCall,
    AfterTheCall,
}

const TIMES: [Taken; 3] = [
    Taken::BeforeTheFirstStatement,
    Taken::BeforeTheCall,
    Taken::AfterTheCall,
];

/// Gives what the commit says, with the errors before it swallowed.
async fn zombie(rig: &Rig, level: &str, taken: Taken) -> flowstream::Result<()> {
    let mut consumer = rig.consumer().await;
    let delivery = next(&mut consumer).await;
    let mut tx = rig.begin().await;
    if taken == Taken::BeforeTheFirstStatement {
        rig.take_over().await;
    }
    effect(&mut tx, delivery.offset()).await.unwrap();
    if taken == Taken::BeforeTheCall {
        rig.take_over().await;
    }
    let said = delivery.commit_in(&mut tx).await;
    match taken {
        Taken::BeforeTheFirstStatement => assert!(said.unwrap_err().is_fenced()),
        // The stricter ones do not see it yet.
        Taken::BeforeTheCall => assert_eq!(said.is_err(), level == LEVELS[0]),
        Taken::AfterTheCall => said.expect("it has the lease"),
    }
    if taken == Taken::AfterTheCall {
        // The transaction idles, and keeps nobody waiting.
        rig.take_over().await;
    }
    postgres::commit(tx).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_with_a_fenced_delivery_cannot_commit() {
    for level in LEVELS {
        for taken in TIMES {
            let rig = Rig::new(level, 1).await;
            let error = zombie(&rig, level, taken).await.expect_err("refused");
            assert!(is_refused(level, &error), "{level}, {taken:?}: {error:?}");
            assert_eq!(rig.effects(), [], "{level}, {taken:?}");
            assert_eq!(rig.state().await.position(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_it_commits() {
    for level in LEVELS {
        for taken in TIMES {
            let rig = Rig::new(level, 1).await;
            rig.tear_down();
            zombie(&rig, level, taken)
                .await
                .expect("nothing refuses it");
            assert_eq!(rig.effects(), [0], "{level}, {taken:?}");
        }
    }
}

/// As sqlx itself commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_commit_is_refused_too() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        let mut consumer = rig.consumer().await;
        let delivery = next(&mut consumer).await;
        let mut tx = rig.begin().await;
        rig.take_over().await;
        effect(&mut tx, 0).await.unwrap();
        let error = delivery.commit_in(&mut tx).await.expect_err("fenced");
        assert!(error.is_fenced(), "{error}");
        let error = tx.commit().await.expect_err("refused");
        let code = error.as_database_error().and_then(|said| said.code());
        assert_eq!(code.as_deref(), Some("ZF001"), "{level}");
        assert_eq!(rig.effects(), []);
    }
}

/// Ordinary triggers do not fire there: the fence does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_replicates_is_fenced_too() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        let mut consumer = rig.consumer().await;
        let delivery = next(&mut consumer).await;
        let mut tx = rig.begin().await;
        sqlx::query("SET LOCAL session_replication_role = replica")
            .execute(&mut *tx)
            .await
            .expect("it is set");
        effect(&mut tx, 0).await.unwrap();
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        rig.take_over().await;
        let error = postgres::commit(tx).await.expect_err("refused");
        assert!(is_refused(level, &error), "{level}: {error:?}");
        assert_eq!(rig.effects(), [], "{level}");
    }
}

/// A subscriber of logical replication has leases of another server, and decides nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_server_committed_is_applied_as_it_is() {
    let rig = Rig::new(LEVELS[0], 1).await;
    drop(rig.consumer().await);
    // As the worker does that applies.
    rig.psql(
        "SET session_replication_role = replica;
         INSERT INTO flowstream.acks (group_id, \"offset\", epoch, owner, xid)
             SELECT group_id, 0, 7, gen_random_uuid(), '3' FROM flowstream.leases",
    );
    assert_eq!(rig.psql("SELECT count(*) FROM flowstream.acks").trim(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn savepoints_save_no_zombie() {
    for level in LEVELS {
        for is_within in [false, true] {
            let rig = Rig::new(level, 1).await;
            let mut consumer = rig.consumer().await;
            let delivery = next(&mut consumer).await;
            let mut tx = rig.begin().await;
            effect(&mut tx, 0).await.unwrap();
            if is_within {
                let mut savepoint = tx.begin().await.unwrap();
                delivery
                    .commit_in(&mut savepoint)
                    .await
                    .expect("it has the lease");
                savepoint.commit().await.unwrap();
            } else {
                delivery.commit_in(&mut tx).await.expect("it has the lease");
            }
            rig.take_over().await;
            // What fails is taken back, and the transaction goes on.
            let mut savepoint = tx.begin().await.unwrap();
            let failed = sqlx::query("SELECT 1 / 0").execute(&mut *savepoint).await;
            failed.expect_err("a swallowed error");
            savepoint.rollback().await.unwrap();
            effect(&mut tx, 0).await.unwrap();
            let error = postgres::commit(tx).await.expect_err("refused");
            assert!(is_refused(level, &error), "{level}: {error:?}");
            assert_eq!(rig.effects(), []);
        }
    }
}

/// The call is taken back with its savepoint, and the message comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_rolled_back_to_a_savepoint_is_none() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        let mut consumer = rig.consumer().await;
        let delivery = next(&mut consumer).await;
        let mut tx = rig.begin().await;
        let mut savepoint = tx.begin().await.unwrap();
        delivery
            .commit_in(&mut savepoint)
            .await
            .expect("it has the lease");
        drop(delivery);
        savepoint.rollback().await.unwrap();
        postgres::commit(tx).await.expect("committed");
        let again = next(&mut consumer).await;
        assert_eq!((again.offset(), again.attempt()), (0, 2));
    }
}

/// A takeover that waits for a commit under way sees what it did, also where its own snapshot is
/// older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_sees_what_committed_before_it() {
    for level in LEVELS {
        for theirs in LEVELS {
            let rig = Rig::new(level, 3).await;
            let storage = rig.open_at(theirs).await;
            let mut consumer = rig.consumer().await;
            let delivery = next(&mut consumer).await;
            let mut tx = rig.begin().await;
            effect(&mut tx, 0).await.unwrap();
            delivery.commit_in(&mut tx).await.expect("it has the lease");
            // As in the middle of the commit: the locks are held.
            let check = sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *tx);
            check.await.expect("it has the lease");
            let claiming = {
                let (storage, state) = (storage.clone(), rig.state().await);
                tokio::spawn(async move {
                    let over = Some(Over::another(state.epoch, state.generation));
                    let (group, owner) = (group(), Id::random());
                    let claim = Claim { group, owner, over };
                    loop {
                        match storage.claim(claim.clone()).await {
                            Err(error) if error.is_transient() => {}
                            state => break state.expect("a claim"),
                        }
                    }
                })
            };
            rig.until_one_waits().await;
            postgres::commit(tx).await.expect("committed");
            let state = claiming.await.unwrap();
            assert_eq!(state.position(), 1, "{level} before {theirs}");
            assert_eq!(state.attempts, rig.state().await.attempts);
            assert_eq!(rig.effects(), [0]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_waits_for_transactions() {
    for level in LEVELS {
        let rig = Rig::new(level, 1).await;
        let mut consumer = rig.consumer().await;
        let delivery = next(&mut consumer).await;
        let mut tx = rig.begin().await;
        effect(&mut tx, 0).await.unwrap();
        delivery.commit_in(&mut tx).await.expect("it has the lease");
        drop(delivery);
        let control = consumer.control();
        let shutdown = tokio::spawn(async move { control.shutdown().await });
        assert!(consumer.try_next().await.expect("no error").is_none());
        assert!(rig.state().await.owner.is_some(), "it waits");
        postgres::commit(tx).await.expect("committed");
        shutdown.await.unwrap();
        let state = rig.state().await;
        assert_eq!((state.owner, state.position()), (None, 1));
        assert_eq!(rig.effects(), [0]);
    }
}
