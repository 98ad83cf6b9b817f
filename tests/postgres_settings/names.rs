//! Names in databases that cannot write all of Unicode.

use flowstream::postgres::{self, ProducerExt};
use flowstream::storage::PostgresOptions;
use flowstream::{Batch, Error, ErrorKind, Message, Options};
use sqlx::PgPool;

use crate::{cluster, database, encoded_in};

const NAME: &str = "crabs 🦀";

fn refused<T>(what: &str, result: Result<T, impl Into<Error>>) {
    let Err(error) = result else {
        panic!("{what}: it was taken");
    };
    let error: Error = error.into();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error}");
    assert!(error.to_string().contains("encoding"), "{what}: {error}");
    assert!(!error.in_doubt(), "{what}: {error}");
}

/// It was called a defect, and tried again by nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_the_database_cannot_write_is_invalid_and_nothing_is_written() {
    for encoding in ["LATIN2", "KOI8R", "EUC_JP"] {
        for is_pooled in [false, true] {
            let database = database(&encoded_in(encoding));
            let url = cluster().url(&database);
            let options = PostgresOptions::new().pooled(is_pooled);
            let flow = Options::new().postgres(options).open(&url).await;
            let flow = flow.expect("it opens");
            let mut orders = flow.producer("orders").await.expect("a producer");
            refused("a producer", flow.producer(NAME).await.map(drop));
            refused("a consumer", flow.consumer(NAME, "billing").await.map(drop));
            refused("a group", flow.consumer("orders", NAME).await.map(drop));
            refused("a look", flow.bounds(NAME).await.map(drop));
            refused("more partitions", flow.create_stream(NAME, 2).await);
            let both = || {
                let there = Message::new("a").with_stream("orders").expect("a name");
                let not_there = Message::new("b").with_stream(NAME).expect("a name");
                [there, not_there].into_iter().collect::<Batch>()
            };
            refused("an append", orders.append(both()).await.map(drop));
            let pool = PgPool::connect_lazy(&url).expect("a pool");
            let mut tx = pool.begin().await.expect("a transaction");
            refused("in a transaction", orders.append_in(&mut tx, both()).await);
            postgres::commit(tx).await.expect("it goes on");

            assert_eq!(flow.bounds("orders").await.expect("bounds")[0], 0..0);
            let written = "SELECT (SELECT count(*) FROM flowstream.streams),
                (SELECT count(*) FROM flowstream.leases), (SELECT count(*) FROM flowstream.outbox)";
            assert_eq!(
                cluster().psql(&database, written).trim(),
                "1|0|0",
                "{encoding}"
            );
            flow.close().await.expect("it closes");
        }
    }
}
