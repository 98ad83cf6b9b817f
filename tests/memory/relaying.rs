//! From one stream into another.

use flowstream::Delivery;
use futures::{StreamExt, TryStreamExt};

use crate::bound::{self, PREFETCH};
use crate::place::Place;
use crate::{Measured, Sizes};

pub(crate) async fn into_another_stream(place: Place, sizes: Sizes) {
    // More is on its way here than with a consumer alone.
    let sizes = Sizes {
        log: sizes.log * 3 / 2,
        ..sizes
    };
    place.fill(sizes, 1).await;
    let measured = Measured::begin();
    let flow = place.open().await;
    let consumer = flow.consumer("orders", "copy").prefetch(PREFETCH);
    let consumer = consumer.await.expect("a consumer");
    let producer = flow.producer("copies").await.expect("a producer");
    let control = consumer.control();
    let messages = sizes.messages() as u64;
    consumer
        .inspect_ok(move |delivery| {
            if delivery.offset() + 1 == messages {
                drop(control.shutdown());
            }
        })
        .map_ok(Delivery::into_message)
        .forward(producer)
        .await
        .expect("it is copied");
    let kind = place.kind();
    // What is on its way may begin and end in the middle of a batch, and holds that.
    let cut = 2 * sizes.batch;
    let bound = bound::storage(kind)
        + bound::consumer(kind, 1, sizes)
        + bound::tails(sizes)
        + bound::producers(kind, 1, sizes)
        + cut;
    measured.assert_below(bound, &place, sizes, "forwarding");
}
