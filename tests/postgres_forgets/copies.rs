//! In a copy of the database nobody has a lease: whoever had one is where the copy was made.

use std::time::Duration;

use flowstream::storage::{
    Group, Liveness, Name, Partition, PostgresOptions, PostgresStorage, Storage,
};
use flowstream::{Consumer, ErrorKind, Flowstream, Options, Start};
use futures::SinkExt;

use crate::postgres_support::{Cluster, Stop};
use crate::{cluster, eventually, next, open};

/// Nobody waits for so long.
const LEASE: Duration = Duration::from_secs(3600);

async fn consumer(flow: &Flowstream) -> Consumer {
    let consumer = flow.consumer("orders", "billing").lease(LEASE);
    consumer.await.expect("a consumer")
}

/// Two messages, the first of which is done; who has the lease is gone without a word.
async fn abandoned(url: &str, options: PostgresOptions) {
    let url = url.to_owned();
    let dying = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let flow = Options::new().postgres(options).open(&url).await;
            let flow = flow.expect("it opens");
            let mut producer = flow.producer("orders").await.expect("a producer");
            for body in ["a", "b"] {
                producer.send(body.into()).await.expect("it is sent");
            }
            let mut consumer = consumer(&flow).await;
            next(&mut consumer).await.commit().await.expect("committed");
        });
    });
    let dead = tokio::task::spawn_blocking(|| dying.join());
    dead.await.unwrap().unwrap();
}

async fn takes_over(flow: &Flowstream) {
    let mut consumer = consumer(flow).await;
    let delivery = next(&mut consumer).await;
    assert_eq!(delivery.body(), &b"b"[..]);
    delivery.commit().await.expect("committed");
}

async fn resets(flow: &Flowstream) {
    // Two looks count only if they are not far apart, as on a busy machine.
    eventually("a reset without force", async || {
        let reset = flow.reset("orders", "billing", Start::Earliest).await;
        reset.is_ok_and(|states| states[0].owner.is_none() && states[0].position() == 0)
    })
    .await;
}

/// The lease counted as held until it ran out, and a reset was refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_in_a_copied_database_is_nobodys() {
    for listens in [true, false] {
        let database = cluster().database();
        let options = PostgresOptions::new().listen(listens);
        abandoned(&cluster().url(&database), options).await;
        cluster().wait_for_sessions(&database);
        for copy in ["copy", "other"] {
            let copy = format!("{copy}_{database}");
            let made = format!("CREATE DATABASE {copy} TEMPLATE {database}");
            cluster().psql("postgres", &made);
            let flow = open(&cluster().url(&copy)).await;
            if copy.starts_with("copy") {
                takes_over(&flow).await;
            } else {
                resets(&flow).await;
            }
        }
    }
}

/// As a backup that is put back on another machine, while the owner goes on where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_in_a_restored_backup_is_nobodys_and_its_owner_keeps_its_own() {
    let primary = Cluster::start_new();
    let living = open(&primary.url("postgres")).await;
    let mut producer = living.producer("orders").await.expect("a producer");
    for body in ["a", "b"] {
        producer.send(body.into()).await.expect("it is sent");
    }
    let mut owner = consumer(&living).await;
    next(&mut owner).await.commit().await.expect("committed");
    let (backup, other) = (primary.standby(), primary.standby());
    for backup in [&backup, &other] {
        backup.catch_up(&primary);
        backup.stop_following();
        backup.promote();
    }
    takes_over(&open(&backup.url("postgres")).await).await;
    let flow = open(&other.url("postgres")).await;
    resets(&flow).await;
    next(&mut owner)
        .await
        .commit()
        .await
        .expect("still its own");
    let reset = living.reset("orders", "billing", Start::Earliest).await;
    let refused = reset.expect_err("its owner lives");
    assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
}

/// On a standby one sees no session of the primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_is_not_dead_because_a_standby_does_not_see_it() {
    let primary = Cluster::start_new();
    let living = open(&primary.url("postgres")).await;
    let mut producer = living.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    let mut owner = consumer(&living).await;
    let delivery = next(&mut owner).await;
    let standby = primary.standby();
    standby.catch_up(&primary);
    let storage = PostgresStorage::connect(&standby.url("postgres"), PostgresOptions::new()).await;
    let storage = storage.expect("it opens");
    let partition = Partition {
        stream: Name::new("orders").unwrap(),
        index: 0,
    };
    let name = Name::new("billing").unwrap();
    let group = [Group { partition, name }];
    for _ in 0..3 {
        let states = storage.observe(&group).await.expect("a look");
        let state = states[0].as_ref().expect("a group");
        assert!(state.owner.is_some());
        assert_ne!(state.liveness, Liveness::Dead);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    delivery.commit().await.expect("it has the lease");
}

/// After a restart of the server a lease whose owner did not come back counted as held until it ran
/// out. So it did in a copy of the files, which is the same server to all that can be seen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_does_not_come_back_after_a_restart_is_gone() {
    for how in [Stop::Fast, Stop::Immediate] {
        let cluster = Cluster::start_new();
        let url = cluster.url("postgres");
        abandoned(&url, PostgresOptions::new()).await;
        cluster.stop(how);
        cluster.start();
        let flow = open(&url).await;
        takes_over(&flow).await;
    }
}

/// Who may not ask for the identity of the server took it for another one than those who may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_roles_are_in_the_same_place() {
    let database = cluster().database();
    let flow = open(&cluster().url(&database)).await;
    let mut producer = flow.producer("orders").await.expect("a producer");
    producer.send("a".into()).await.expect("it is sent");
    let mut owner = consumer(&flow).await;
    let delivery = next(&mut owner).await;
    let role = format!("curious_{database}");
    let few = format!(
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
         CREATE ROLE {role} LOGIN;
         GRANT USAGE ON SCHEMA flowstream TO {role};
         GRANT ALL ON ALL TABLES IN SCHEMA flowstream TO {role}"
    );
    cluster().psql(&database, &few);
    let place = "SELECT flowstream.incarnation()";
    let there = cluster().psql_at(&cluster().url_as(&role, &database), place);
    assert_eq!(cluster().psql(&database, place), there);
    let other = open(&cluster().url_as(&role, &database)).await;
    let mut standby = consumer(&other).await;
    let control = standby.control();
    let standing = tokio::spawn(async move { standby.try_next().await });
    // It has looked often enough by then.
    eventually("it stands by", async || {
        control.status() == flowstream::Status::Standby
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    delivery.commit().await.expect("it has the lease");
    control.shutdown().await;
    assert!(standing.await.unwrap().expect("no error").is_none());
}
