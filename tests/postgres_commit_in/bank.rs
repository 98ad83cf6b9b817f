//! A bank: transfers come as messages; balances and position are written in one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flowstream::postgres::sqlx::postgres::PgTransaction;
use flowstream::postgres::sqlx::{self, PgPool, Row};
use flowstream::postgres::{self, DeliveryExt};
use flowstream::storage::{
    Claim, Group, Id, Name, Over, Partition, PostgresOptions, PostgresStorage, Storage,
};
use flowstream::{Delivery, Flowstream, Message};
use futures::TryStreamExt;

use crate::rig::{LEVELS, cluster, eventually, pool};

const ACCOUNTS: u64 = 8;
const EACH: i64 = 1_000;
const TRANSFERS: u64 = 600;
const PARTITIONS: u32 = 2;

/// What went wrong on the way, as it should.
#[derive(Debug, Default)]
struct Troubles {
    rolled_back: AtomicUsize,
    swallowed: AtomicUsize,
    collided: AtomicUsize,
    fenced: AtomicUsize,
    stolen: AtomicUsize,
}

struct Bank {
    database: String,
    pool: PgPool,
    troubles: Troubles,
}

#[derive(Debug, PartialEq)]
struct Books {
    balances: Vec<i64>,
    transfers: i64,
}

impl Bank {
    async fn open(level: &str) -> Self {
        let database = cluster().database();
        let pool = pool(&cluster().url(&database), level);
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
             INSERT INTO accounts SELECT n, {EACH} FROM generate_series(0, {ACCOUNTS} - 1) n;
             CREATE TABLE transfers (of text)"
        )))
        .execute(&pool)
        .await
        .unwrap();
        Self {
            database,
            pool,
            troubles: Troubles::default(),
        }
    }

    async fn book(
        &self,
        tx: &mut PgTransaction<'_>,
        delivery: &Delivery,
    ) -> Result<(), sqlx::Error> {
        let (from, to, amount) = transfer(delivery.body());
        // In the order of the message, so that two of them may meet head on.
        for (account, amount) in [(from, -amount), (to, amount)] {
            let update = sqlx::query("UPDATE accounts SET balance = balance + $1 WHERE id = $2");
            update
                .bind(amount)
                .bind(account as i64)
                .execute(&mut **tx)
                .await?;
        }
        let of = format!("{}/{}", delivery.partition(), delivery.offset());
        let insert = sqlx::query("INSERT INTO transfers VALUES ($1)").bind(of);
        insert.execute(&mut **tx).await?;
        Ok(())
    }

    async fn handle(&self, delivery: Delivery) {
        let count = |trouble: &AtomicUsize| trouble.fetch_add(1, Ordering::Relaxed);
        let troubles = &self.troubles;
        let mut tx = self.pool.begin().await.unwrap();
        if self.book(&mut tx, &delivery).await.is_err() {
            count(&troubles.collided);
            return;
        }
        // Whatever it says, the commit goes ahead.
        let said = delivery.commit_in(&mut tx).await;
        let is_fenced = said.is_err_and(|error| error.is_fenced());
        let random = Id::random().0 as u64 % 20;
        match random {
            0 => {
                count(&troubles.rolled_back);
                return;
            }
            1 => {
                let failed = sqlx::query("SELECT 1 / 0").execute(&mut *tx).await;
                failed.expect_err("a swallowed error");
                count(&troubles.swallowed);
            }
            2 | 3 => tokio::time::sleep(Duration::from_millis(60)).await,
            _ => {}
        }
        let committed = match random % 2 {
            0 => postgres::commit(tx)
                .await
                .map_err(|error| error.is_fenced()),
            _ => tx.commit().await.map_err(|error| {
                let said = error.as_database_error().and_then(|said| said.code());
                said.as_deref() == Some("ZF001")
            }),
        };
        match committed {
            Err(true) => drop(count(&troubles.fenced)),
            Err(false) => drop(count(&troubles.collided)),
            Ok(()) if is_fenced => {}
            Ok(()) => {}
        }
    }

    async fn books(&self) -> Books {
        let balances = sqlx::query("SELECT balance FROM accounts ORDER BY id");
        let balances = balances.fetch_all(&self.pool).await.unwrap();
        let transfers = sqlx::query("SELECT count(*) FROM transfers")
            .fetch_one(&self.pool)
            .await;
        Books {
            balances: balances.iter().map(|row| row.get(0)).collect(),
            transfers: transfers.unwrap().get(0),
        }
    }
}

fn transfer(body: &[u8]) -> (u64, u64, i64) {
    let text = std::str::from_utf8(body).unwrap();
    let numbers: Vec<u64> = text.split(' ').map(|n| n.parse().unwrap()).collect();
    (numbers[0], numbers[1], numbers[2] as i64)
}

async fn works(bank: Arc<Bank>, flow: Flowstream) {
    let consumer = flow.consumer("transfers", "bank");
    let consumer = consumer.redeliver_after(Duration::from_millis(30));
    let consumer = consumer.await.expect("a consumer");
    let deliveries = consumer.map_err(|error| panic!("{error}"));
    let work = deliveries.try_for_each_concurrent(8, |delivery| {
        let bank = bank.clone();
        async move {
            bank.handle(delivery).await;
            Ok::<(), ()>(())
        }
    });
    work.await.expect("no error");
}

/// So many transfers are done between two thefts of a lease: each throws away what is under way, and
/// the slower the machine, the less would be done in between.
const BETWEEN: u64 = 8;

/// Or none for so long: the last ones may all have been let go of, and come again with the next owner.
const STILL: Duration = Duration::from_secs(2);

/// What the thief knows of a group.
struct Watched {
    /// What was done at the last theft.
    at_theft: u64,
    done: u64,
    /// Since when it is so much.
    since: Instant,
}

impl Watched {
    fn new() -> Self {
        Self {
            at_theft: 0,
            done: 0,
            since: Instant::now(),
        }
    }

    /// Whether it is time for a theft, now that so much is done.
    fn is_due(&mut self, done: u64) -> bool {
        if done > self.done {
            (self.done, self.since) = (done, Instant::now());
        }
        let is_due = done >= self.at_theft + BETWEEN || self.since.elapsed() >= STILL;
        if is_due {
            (self.at_theft, self.since) = (done, Instant::now());
        }
        is_due
    }
}

/// Takes leases away while transactions are open, and gives them back at once.
async fn thief(bank: Arc<Bank>, storage: Arc<PostgresStorage>, over: Arc<AtomicBool>) {
    let stream = Name::new("transfers").unwrap();
    let groups = (0..PARTITIONS).map(|index| Group {
        partition: Partition {
            stream: stream.clone(),
            index,
        },
        name: Name::new("bank").unwrap(),
    });
    let groups: Vec<Group> = groups.collect();
    let mut watched: Vec<Watched> = groups.iter().map(|_| Watched::new()).collect();
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        let states = storage.observe(&groups).await.expect("a look");
        for ((group, state), watched) in groups.iter().zip(states).zip(&mut watched) {
            let Some(state) = state else { continue };
            let done = state.progress.position() + state.progress.acked().count();
            if !watched.is_due(done) {
                continue;
            }
            let (group, owner) = (group.clone(), Id::random());
            let over = Some(Over::another(state.epoch, state.generation));
            let claim = Claim {
                group: group.clone(),
                owner,
                over,
            };
            let Ok(state) = storage.claim(claim).await else {
                continue;
            };
            if state.owner == Some(owner) {
                bank.troubles.stolen.fetch_add(1, Ordering::Relaxed);
                let epoch = state.epoch;
                let lease = flowstream::storage::Lease {
                    group,
                    owner,
                    epoch,
                };
                storage.release(&lease).await.expect("given back");
            }
        }
    }
}

/// What the books say in the end, and what they should.
async fn run(level: &str, is_fenced: bool) -> (Books, Books) {
    let bank = Arc::new(Bank::open(level).await);
    let url = cluster().url(&bank.database);
    let mut flows = Vec::new();
    for _ in 0..2 {
        flows.push(flowstream::open(&url).await.expect("it opens"));
    }
    flows[0]
        .create_stream("transfers", PARTITIONS)
        .await
        .expect("a stream");
    if !is_fenced {
        cluster().psql(&bank.database, "DROP TRIGGER fence ON flowstream.acks");
    }
    let mut expected = Books {
        balances: vec![EACH; ACCOUNTS as usize],
        transfers: TRANSFERS as i64,
    };
    let messages: Vec<Message> = (0..TRANSFERS)
        .map(|n| {
            let random = Id::random().0 as u64;
            let (from, to) = (random % ACCOUNTS, (random >> 8) % ACCOUNTS);
            let amount = (random >> 16) % 100;
            expected.balances[from as usize] -= amount as i64;
            expected.balances[to as usize] += amount as i64;
            Message::new(format!("{from} {to} {amount}")).with_key(n.to_string())
        })
        .collect();
    let mut transfers = flows[0].producer("transfers").await.expect("a producer");
    transfers.append(messages).await.expect("appended");

    let over = Arc::new(AtomicBool::new(false));
    let storage = PostgresStorage::connect(&url, PostgresOptions::new()).await;
    let thief = tokio::spawn(thief(
        bank.clone(),
        Arc::new(storage.unwrap()),
        over.clone(),
    ));
    let workers: Vec<_> = flows
        .iter()
        .map(|flow| tokio::spawn(works(bank.clone(), flow.clone())))
        .collect();
    eventually(async || {
        let Ok(states) = flows[0].group("transfers", "bank").await else {
            return false;
        };
        states.iter().all(|state| state.lag() == 0)
    })
    .await;
    over.store(true, Ordering::Relaxed);
    thief.await.unwrap();
    for worker in workers {
        worker.abort();
        let _ = worker.await;
    }
    println!("{level}, fence {is_fenced}: {:?}", bank.troubles);
    assert!(bank.troubles.stolen.load(Ordering::Relaxed) > 0);
    (bank.books().await, expected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bank_keeps_its_books() {
    for level in LEVELS {
        let (books, expected) = run(level, true).await;
        assert_eq!(books, expected, "{level}");
        assert_eq!(books.balances.iter().sum::<i64>(), EACH * ACCOUNTS as i64);
    }
}

/// The same without the fence: transfers are booked twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_it_does_not() {
    for _ in 0..5 {
        let (books, expected) = run(LEVELS[0], false).await;
        if books.transfers > expected.transfers {
            return;
        }
    }
    panic!("no zombie was there in five runs");
}
