//! Passwords, bodies, keys and values of headers are shown nowhere.

use std::sync::Arc;

use flowstream::storage::{Append, Id, Name, Partition, Read, RecordsBuilder, Row};
use flowstream::{Batch, Clock, Headers, ManualClock, Message, Options};
use futures::SinkExt;

use crate::listing::{all, no_secret, shows_no_secret};
use crate::support::*;

fn message() -> Message {
    let message = Message::new("secret-body").with_key("secret-key");
    message.with_header("token", "secret-value").unwrap()
}

#[test]
fn no_text_has_a_secret_in_it() {
    let all = all();
    no_secret(&all);
    assert!(all.len() > 1000, "there are texts");
}

/// Once `Headers` showed the values.
#[tokio::test]
async fn debug_shows_sizes_alone() {
    let mut headers = Headers::new();
    headers.insert("token", "secret-value").unwrap();
    shows_no_secret(&headers);
    assert!(format!("{headers:?}").contains("token"));
    shows_no_secret(&message());
    shows_no_secret(&Batch::from(message()));
    let mut records = RecordsBuilder::default();
    records.push(&message());
    shows_no_secret(&records);
    let append = Append {
        id: Id::random(),
        after: None,
        rows: vec![Row {
            partition: Partition {
                stream: Name::new("orders").unwrap(),
                index: 0,
            },
            records: records.build().unwrap(),
        }],
        commits: Vec::new(),
    };
    shows_no_secret(&append);

    let world = world().await;
    let builder = world.flow.producer("orders");
    shows_no_secret(&builder);
    let mut producer = builder.await.unwrap();
    producer.feed(message()).await.unwrap();
    shows_no_secret(&producer);
    producer.flush().await.unwrap();
    producer.append(message()).await.unwrap();
    world.faulty.set(Call::Append, Fault::Doubt);
    let error = producer.append(message()).await.unwrap_err();
    shows_no_secret(&error);
    shows_no_secret(&error.unsent);
    world.faulty.heal();

    let builder = world.flow.consumer("orders", "billing");
    shows_no_secret(&builder);
    let mut consumer = builder.await.unwrap();
    let (one, other) = (next(&mut consumer).await, next(&mut consumer).await);
    shows_no_secret(&consumer);
    shows_no_secret(&consumer.control());
    shows_no_secret(&one);
    shows_no_secret(&world.flow);
    let read = Read {
        partition: append.rows[0].partition.clone(),
        from: 0,
        max_bytes: 1000,
        group: None,
    };
    shows_no_secret(&world.faulty.inner().read(read).await.unwrap());
    shows_no_secret(&world.flow.read("orders", 0, 0).await.unwrap());
    let (message, commit) = one.into_parts();
    shows_no_secret(&message);
    shows_no_secret(&commit);
    shows_no_secret(&commit.commit());
    shows_no_secret(&other.into_message());
}

#[tokio::test]
async fn options_show_no_secret() {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new());
    shows_no_secret(&clock);
    #[cfg(feature = "postgres")]
    {
        let url = "postgres://secret_role:hunter2@127.0.0.1:1/x";
        let postgres = flowstream::storage::PostgresOptions::new().listen_on(url.parse().unwrap());
        shows_no_secret(&postgres);
        shows_no_secret(&Options::new().postgres(postgres));
    }
    shows_no_secret(&Options::new());
}
