//! Producers that are faster than the storage.

use flowstream::Flowstream;
use futures::SinkExt;
use futures::future::join_all;

use crate::bound;
use crate::place::Place;
use crate::support::{Call, Fault};
use crate::{MEMORY, Measured, Sizes, rest};

async fn feed(flow: &Flowstream, sizes: Sizes, messages: usize) {
    let mut producer = flow.producer("orders").await.expect("a producer");
    for number in 0..messages {
        let fed = producer.feed(sizes.message(number)).await;
        fed.expect("it is taken");
    }
    producer.close().await.expect("it is written");
}

pub(crate) async fn where_the_storage_is_silent(place: Place, sizes: Sizes) {
    const PRODUCERS: usize = 2;
    let measured = Measured::begin();
    let (flow, faulty) = place.open_faulty().await;
    faulty.set(Call::Append, Fault::Hold);
    let producers = (0..PRODUCERS).map(|_| feed(&flow, sizes, sizes.messages()));
    let answer = async {
        // Until nobody takes any more.
        rest().await;
        faulty.heal();
        faulty.let_go();
    };
    tokio::join!(answer, join_all(producers));
    let kind = place.kind();
    let bound = bound::storage(kind) + bound::producers(kind, PRODUCERS, sizes);
    measured.assert_below(bound, &place, sizes, "two producers, a silent storage");
}

/// They have one message each, so all are under way.
pub(crate) async fn where_a_thousand_tasks_append(place: Place, sizes: Sizes) {
    let tasks = sizes.messages() / 2;
    let measured = Measured::begin();
    let flow = place.open().await;
    let producer = flow.producer("orders").await.expect("a producer");
    let appends = (0..tasks).map(|number| {
        let mut producer = producer.clone();
        async move {
            producer
                .append(sizes.message(number))
                .await
                .expect("it is written")
        }
    });
    join_all(appends).await;
    let kind = place.kind();
    let submitted = tasks * sizes.message;
    let bound =
        bound::storage(kind) + submitted + bound::statements(kind, submitted, sizes.message);
    measured.assert_below(bound, &place, sizes, "tasks that append");
}

/// What stays is little.
pub(crate) async fn after_large_statements(place: Place, sizes: Sizes) {
    let flow = place.open().await;
    let measured = Measured::begin();
    for _ in 0..4 {
        let appends = (0..4).map(|_| feed(&flow, sizes, 4));
        join_all(appends).await;
    }
    let bound = bound::storage(place.kind());
    rest().await;
    MEMORY.reset_peak_usage();
    measured.assert_below(bound, &place, sizes, "after large statements");
}
