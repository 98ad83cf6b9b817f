//! Answers that get lost, servers that go away, and who comes late.

#![cfg(feature = "postgres")]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use flowstream::ErrorKind;
use flowstream::storage::{
    Append, Appended, Claim, Group, Id, Lease, Name, Over, Partition, PostgresOptions,
    PostgresStorage, Ranges, RecordsBuilder, Row, Start, Storage, Verdicts,
};
use futures::FutureExt;
use postgres_support::proxy::{Network, Proxy};
use postgres_support::{Cluster, Stop};
use sqlx::{Connection, PgConnection};

mod postgres_support;

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start_new)
}

fn options() -> PostgresOptions {
    PostgresOptions::new().statement_timeout(Duration::from_secs(20))
}

async fn open(url: &str) -> PostgresStorage {
    let storage = PostgresStorage::connect(url, options()).await;
    storage.expect("it opens")
}

/// On a pool whose sessions wait for locks as long as the slowest machine needs.
async fn patient(url: &str) -> PostgresStorage {
    let server: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    let pool = sqlx::PgPool::connect_lazy_with(server.options([("lock_timeout", "300s")]));
    let options = PostgresOptions::new().statement_timeout(Duration::from_secs(300));
    let storage = PostgresStorage::from_pool(pool, options).await;
    storage.expect("it opens")
}

async fn partition(storage: &PostgresStorage, stream: &str) -> Partition {
    let stream = Name::new(stream).unwrap();
    storage
        .create_stream(&stream, None)
        .await
        .expect("a stream");
    Partition { stream, index: 0 }
}

fn one(partition: &Partition, body: &'static str, commits: Vec<(Lease, Ranges)>) -> Arc<Append> {
    let message = flowstream::Message::new(body);
    let builder: RecordsBuilder = [&message].into_iter().collect();
    let row = Row {
        partition: partition.clone(),
        records: builder.build().unwrap(),
    };
    Arc::new(Append {
        id: Id::random(),
        after: None,
        rows: vec![row],
        commits,
    })
}

async fn group(storage: &PostgresStorage, partition: &Partition) -> Group {
    let group = Group {
        partition: partition.clone(),
        name: Name::new("billing").unwrap(),
    };
    storage
        .create_group(&group, Start::Earliest)
        .await
        .expect("a group");
    group
}

async fn claim(storage: &PostgresStorage, group: &Group, over: Option<(u64, u64)>) -> Lease {
    let owner = Id::random();
    let claim = Claim {
        group: group.clone(),
        owner,
        over: over.map(|(epoch, generation)| Over::another(epoch, generation)),
    };
    let state = storage.claim(claim).await.expect("a claim");
    assert_eq!(state.owner, Some(owner));
    Lease {
        group: group.clone(),
        owner,
        epoch: state.epoch,
    }
}

async fn takeover(storage: &PostgresStorage, group: &Group) -> Lease {
    let states = storage
        .observe(std::slice::from_ref(group))
        .await
        .expect("a state");
    let state = states[0].as_ref().expect("it is known");
    claim(storage, group, Some((state.epoch, state.generation))).await
}

/// A session that holds the lock of all partitions until it is dropped.
async fn hold_partitions(url: &str) -> PgConnection {
    let mut session = PgConnection::connect(url).await.unwrap();
    let lock = "BEGIN; SELECT FROM flowstream.partitions FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut session).await.unwrap();
    session
}

/// The backends that wait for a lock, once there are so many.
async fn waiting(database: &str, count: usize) -> Vec<u32> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    );
    loop {
        let pids = cluster().psql(database, &sql);
        let pids: Vec<u32> = pids
            .lines()
            .filter_map(|pid| pid.trim().parse().ok())
            .collect();
        if pids.len() >= count {
            return pids;
        }
        tokio::task::yield_now().await;
    }
}

async fn ends_at(storage: &PostgresStorage, partition: &Partition) -> u64 {
    let bounds = storage.bounds(std::slice::from_ref(partition)).await;
    bounds.expect("bounds")[0].end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_got_lost_is_found_by_its_id() {
    let database = cluster().database();
    let proxy = Proxy::start(cluster().port()).await;
    // One connection, so that the append goes over one that is there.
    let options = options().max_connections(1);
    let storage = PostgresStorage::connect(&proxy.url(&database), options)
        .await
        .unwrap();
    let orders = partition(&storage, "orders").await;
    let once = one(&orders, "a", vec![]);
    loop {
        proxy.set(Network::Works);
        ends_at(&storage, &orders).await;
        proxy.set(Network::LosesAnswers);
        let error = storage
            .append(once.clone())
            .await
            .expect_err("no answer came");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        // On a busy machine the connection may be old by now, and its check fails before the append.
        if error.in_doubt() {
            break;
        }
    }
    proxy.set(Network::Works);
    assert_eq!(
        storage.append(once.clone()).await.unwrap().bases(),
        Some(vec![0])
    );
    let settled = storage.settle(once.id, std::slice::from_ref(&orders)).await;
    assert_eq!(settled.unwrap(), Some(vec![0]));
    assert_eq!(ends_at(&storage, &orders).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_was_killed_wrote_nothing_and_leaves_a_doubt() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let storage = Arc::new(open(&url).await);
    let orders = partition(&storage, "orders").await;
    let holder = hold_partitions(&url).await;
    let once = one(&orders, "a", vec![]);
    let appending = tokio::spawn({
        let (storage, once) = (storage.clone(), once.clone());
        async move { storage.append(once).await }
    });
    let pid = waiting(&database, 1).await[0];
    cluster().psql(&database, &format!("SELECT pg_terminate_backend({pid})"));
    let error = appending.await.unwrap().expect_err("it was killed");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.in_doubt(), "{error}");
    drop(holder);
    assert_eq!(storage.append(once).await.unwrap().bases(), Some(vec![0]));
    assert_eq!(ends_at(&storage, &orders).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_network_is_an_error_in_time_and_the_pool_recovers() {
    let database = cluster().database();
    let proxy = Proxy::start(cluster().port()).await;
    let options = PostgresOptions::new().statement_timeout(Duration::from_secs(5));
    let storage = PostgresStorage::connect(&proxy.url(&database), options)
        .await
        .unwrap();
    let orders = partition(&storage, "orders").await;
    let once = one(&orders, "a", vec![]);
    proxy.set(Network::Silent);
    let error = storage
        .append(once.clone())
        .await
        .expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.in_doubt(), "{error}");
    // Connections that are dead without a word are let go of.
    proxy.set(Network::Cut);
    proxy.set(Network::Works);
    loop {
        match storage.append(once.clone()).await {
            Ok(appended) => {
                assert_eq!(appended.bases(), Some(vec![0]));
                break;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
    assert_eq!(ends_at(&storage, &orders).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_that_overtake_the_first_attempt_write_once() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let storage = Arc::new(open(&url).await);
    let orders = partition(&storage, "orders").await;
    let holder = hold_partitions(&url).await;
    let once = one(&orders, "a", vec![]);
    let attempts: Vec<_> = (0..4)
        .map(|_| {
            let (storage, once) = (storage.clone(), once.clone());
            tokio::spawn(async move { storage.append(once).await })
        })
        .collect();
    waiting(&database, 4).await;
    drop(holder);
    for attempt in attempts {
        let appended = attempt.await.unwrap().expect("an answer");
        assert_eq!(appended.bases(), Some(vec![0]));
    }
    assert_eq!(ends_at(&storage, &orders).await, 1);
}

/// The zombie's append waits for a partition while its lease is taken over and 1,500 commits make and
/// delete generations. It must see the new epoch, and no generation that is free again.
async fn a_zombie_is_fenced_however_long_it_waits(level: &str) {
    let database = cluster().database();
    let sql = format!("ALTER DATABASE {database} SET default_transaction_isolation = '{level}'");
    cluster().psql("postgres", &sql);
    let url = cluster().url(&database);
    let zombie = patient(&url).await;
    let zombie = Arc::new(zombie);
    let storage = open(&url).await;
    let orders = partition(&storage, "orders").await;
    let out = partition(&storage, "out").await;
    let billing = group(&storage, &orders).await;
    let lease = claim(&storage, &billing, None).await;
    for body in ["a", "b"] {
        storage
            .append(one(&orders, body, vec![]))
            .await
            .expect("an append");
    }
    let relayed = one(&out, "A", vec![(lease.clone(), Ranges::from(0..1))]);
    // Its snapshot is taken, and it waits for the lease.
    let mut holder = PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT FROM flowstream.partitions p JOIN flowstream.streams s \
                USING (stream_id) WHERE s.name = 'out' FOR UPDATE OF p";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let mut leases = PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT FROM flowstream.leases FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut leases).await.unwrap();
    let relaying = tokio::spawn({
        let (zombie, relayed) = (zombie.clone(), relayed.clone());
        async move { zombie.append(relayed).await }
    });
    let pid = waiting(&database, 1).await[0];
    // Frozen: whoever gets the lease now, gets it before the zombie.
    cluster().signal(pid, "STOP");
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut leases)
        .await
        .unwrap();
    let new = takeover(&storage, &billing).await;
    for _ in 0..1_500 {
        storage
            .commit(&new, &Verdicts::default())
            .await
            .expect("a renewal");
    }
    cluster().signal(pid, "CONT");
    drop(holder);
    let answer = relaying.await.unwrap();
    assert_eq!(
        answer.expect("an answer"),
        Appended::Fenced(vec![0]),
        "at {level}"
    );
    assert_eq!(ends_at(&storage, &out).await, 0, "nothing was written");
    let states = storage
        .observe(std::slice::from_ref(&billing))
        .await
        .unwrap();
    assert_eq!(states[0].as_ref().unwrap().progress.position(), 0);
    let error = storage
        .commit(&lease, &Verdicts::from(0..1))
        .await
        .unwrap_err();
    assert!(error.is_fenced());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_is_fenced_in_read_committed() {
    a_zombie_is_fenced_however_long_it_waits("read committed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_is_fenced_in_repeatable_read() {
    a_zombie_is_fenced_however_long_it_waits("repeatable read").await;
}

/// The other hole of deleted generations: an owner's own commit with an old snapshot must not take
/// the place of a generation that is gone, and lose what came after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_with_an_old_snapshot_is_merged_into_the_newest() {
    let database = cluster().database();
    let sql =
        format!("ALTER DATABASE {database} SET default_transaction_isolation = 'repeatable read'");
    cluster().psql("postgres", &sql);
    let url = cluster().url(&database);
    let slow = Arc::new(patient(&url).await);
    let storage = open(&url).await;
    let orders = partition(&storage, "orders").await;
    let billing = group(&storage, &orders).await;
    let lease = claim(&storage, &billing, None).await;
    let mut leases = PgConnection::connect(&url).await.unwrap();
    let lock = "BEGIN; SELECT FROM flowstream.leases FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut leases).await.unwrap();
    let committing = tokio::spawn({
        let (slow, lease) = (slow.clone(), lease.clone());
        async move { slow.commit(&lease, &Verdicts::from(5_000..5_001)).await }
    });
    let pid = waiting(&database, 1).await[0];
    cluster().signal(pid, "STOP");
    sqlx::raw_sql("ROLLBACK")
        .execute(&mut leases)
        .await
        .unwrap();
    for at in 0..1_500 {
        storage
            .commit(&lease, &Verdicts::from(at..at + 1))
            .await
            .expect("a commit");
    }
    cluster().signal(pid, "CONT");
    let progress = committing.await.unwrap().expect("a commit");
    assert_eq!(progress.position(), 1_500);
    let states = storage
        .observe(std::slice::from_ref(&billing))
        .await
        .unwrap();
    assert_eq!(states[0].as_ref().unwrap().progress, progress);
    assert!(progress.is_done(5_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_id_is_looked_for_before_the_fence() {
    let database = cluster().database();
    let storage = open(&cluster().url(&database)).await;
    let orders = partition(&storage, "orders").await;
    let out = partition(&storage, "out").await;
    let billing = group(&storage, &orders).await;
    let lease = claim(&storage, &billing, None).await;
    let relayed = one(&out, "A", vec![(lease, Ranges::from(0..1))]);
    let written = storage.append(relayed.clone()).await.unwrap();
    takeover(&storage, &billing).await;
    let again = storage.append(relayed).await.unwrap();
    assert_eq!(again, Appended::Known(written.bases().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_crash_though_the_role_says_off() {
    let cluster = Cluster::start_with(&[("wal_writer_delay", "10s")]);
    cluster.psql(
        "postgres",
        "ALTER ROLE postgres SET synchronous_commit = off",
    );
    let url = cluster.url("postgres");
    let storage = open(&url).await;
    let orders = partition(&storage, "orders").await;
    let out = partition(&storage, "out").await;
    let billing = group(&storage, &orders).await;
    let lease = claim(&storage, &billing, None).await;
    for at in 0..20 {
        let commits = vec![(lease.clone(), Ranges::from(at..at + 1))];
        storage
            .append(one(&orders, "a", vec![]))
            .await
            .expect("an append");
        storage
            .append(one(&out, "b", commits))
            .await
            .expect("a relay");
    }
    storage
        .commit(&lease, &Verdicts::from(20..25))
        .await
        .expect("a commit");
    cluster.stop(Stop::Immediate);
    cluster.start();
    let storage = open(&url).await;
    assert_eq!(ends_at(&storage, &orders).await, 20);
    assert_eq!(ends_at(&storage, &out).await, 20);
    let states = storage
        .observe(std::slice::from_ref(&billing))
        .await
        .unwrap();
    let state = states[0].as_ref().expect("it is known");
    assert_eq!(
        (state.owner, state.progress.position()),
        (Some(lease.owner), 25)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_server_is_an_outage_that_passes() {
    for how in [Stop::Fast, Stop::Immediate] {
        let cluster = Cluster::start_new();
        let storage = open(&cluster.url("postgres")).await;
        let orders = partition(&storage, "orders").await;
        storage
            .append(one(&orders, "a", vec![]))
            .await
            .expect("an append");
        cluster.stop(how);
        let error = storage
            .append(one(&orders, "lost", vec![]))
            .await
            .expect_err("no server");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        cluster.start();
        let once = one(&orders, "b", vec![]);
        while let Err(error) = storage.append(once.clone()).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        assert_eq!(ends_at(&storage, &orders).await, 2, "after {how:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_nobody_waits_for_hold_no_connection() {
    let database = cluster().database();
    let url = cluster().url(&database);
    let storage = open(&url).await;
    let orders = partition(&storage, "orders").await;
    let holder = hold_partitions(&url).await;
    for _ in 0..50 {
        assert!(
            storage
                .append(one(&orders, "a", vec![]))
                .now_or_never()
                .is_none()
        );
    }
    waiting(&database, 4).await;
    drop(holder);
    storage.close().await.expect("they end");
    let storage = open(&url).await;
    assert_eq!(ends_at(&storage, &orders).await, 50);
    let open = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND state LIKE 'idle in%'"
    );
    assert_eq!(cluster().psql(&database, &open).trim(), "0");
}
