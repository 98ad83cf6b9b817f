//! What one delivery costs: to get it, to let go of it, to acknowledge it.
//!
//! The runtime has one thread, and is entered only between the timed parts: nothing else runs while
//! the clock does.

use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flowstream::{Consumer, Delivery};
use futures::task::noop_waker;
use futures::{SinkExt, StreamExt};
use tokio::runtime::Runtime;

use crate::harness::{Bench, Limit};
use crate::support::{Flavour, SIZE, message};
use crate::table::{Bar, Figure, Unit};

/// So many are taken before they are dropped.
const RING: usize = 256;

const HELD: usize = 10_000;

pub(crate) fn measure(bench: &mut Bench) {
    let figure = |name: &str, unit| Figure::new(name, Flavour::Current.name(), unit);
    let count = bench.count(400_000);

    if bench.wants("memory: poll_next") {
        let runtime = Flavour::Current.runtime();
        bench.measure(
            [
                figure("memory: poll_next, prefetched", Unit::Nanos).bar(Bar::AtMost(100.0)),
                figure("memory: poll_next and drop", Unit::Nanos).bar(Bar::AtMost(100.0)),
                figure("memory: poll_next and drop", Unit::Count).bar(Bar::AtMost(0.01)),
            ],
            || poll_next(&runtime, count),
            vec![Limit::new("Bytes::slice", || slices(count))],
        );
    }
    for (name, reach) in [("in order", 1), ("shuffled by 64", 64), ("shuffled", HELD)] {
        let runtime = Flavour::Current.runtime();
        bench.measure(
            [figure(&format!("memory: ack, {name}"), Unit::Operations)],
            || [acks(&runtime, reach)],
            vec![Limit::new("Mutex, Arc, counter", || [locks()])],
        );
    }
}

/// Nanoseconds a delivery to get, nanoseconds to get and drop, and allocations of both.
fn poll_next(runtime: &Runtime, count: usize) -> [f64; 3] {
    let mut consumer = filled(runtime, count);
    let mut ring = Vec::with_capacity(RING);
    let (mut getting, mut dropping, mut allocations) = (Duration::ZERO, Duration::ZERO, 0);
    let mut got = 0;
    let mut is_counting = false;
    while got < count {
        // Every other chunk is counted instead of timed, so that counting costs no time.
        is_counting = !is_counting;
        if is_counting {
            let info = allocation_counter::measure(|| {
                take(&mut consumer, &mut ring);
                got += ring.len();
                ring.clear();
            });
            allocations += info.count_total;
            prefetch(runtime);
            continue;
        }
        let began = Instant::now();
        take(&mut consumer, &mut ring);
        let taken = Instant::now();
        got += ring.len();
        black_box(&mut ring).clear();
        let dropped = Instant::now();
        getting += taken - began;
        dropping += dropped - taken;
        prefetch(runtime);
    }
    let [timed, counted] = [count.div_ceil(2), count / 2].map(|count| count as f64);
    let nanos = |time: Duration| time.as_nanos() as f64 / timed;
    [
        nanos(getting),
        nanos(getting + dropping),
        allocations as f64 / counted,
    ]
}

/// Fills the ring with what is prefetched.
fn take(consumer: &mut Consumer, ring: &mut Vec<Delivery>) {
    let waker = noop_waker();
    let mut cx = Context::from_waker(&waker);
    while ring.len() < RING {
        let Poll::Ready(Some(delivery)) = consumer.poll_next_unpin(&mut cx) else {
            return;
        };
        ring.push(delivery.expect("a delivery"));
    }
}

/// Slicing a body out of a batch and dropping it: the least that a delivery can be.
fn slices(count: usize) -> [f64; 3] {
    let batch = Bytes::from(vec![0; RING * SIZE]);
    let mut ring = Vec::with_capacity(RING);
    let (mut getting, mut dropping) = (Duration::ZERO, Duration::ZERO);
    let mut allocations = 0;
    let chunks = count / RING;
    for _ in 0..chunks {
        let began = Instant::now();
        for at in 0..RING {
            ring.push(black_box(&batch).slice(at * SIZE..(at + 1) * SIZE));
        }
        let taken = Instant::now();
        black_box(&mut ring).clear();
        getting += taken - began;
        dropping += taken.elapsed();
    }
    allocations += allocation_counter::measure(|| {
        for at in 0..RING {
            ring.push(black_box(&batch).slice(at * SIZE..(at + 1) * SIZE));
        }
    })
    .count_total;
    let nanos = |time: Duration| time.as_nanos() as f64 / (chunks * RING) as f64;
    [
        nanos(getting),
        nanos(getting + dropping),
        allocations as f64 / RING as f64,
    ]
}

/// A second on deliveries that are held, so many of which are in no order.
fn acks(runtime: &Runtime, reach: usize) -> f64 {
    let mut consumer = filled(runtime, HELD);
    let mut held = Vec::with_capacity(HELD);
    let mut ring = Vec::with_capacity(RING);
    while held.len() < HELD {
        take(&mut consumer, &mut ring);
        held.append(&mut ring);
        prefetch(runtime);
    }
    held.chunks_mut(reach).for_each(shuffle);
    let began = Instant::now();
    for delivery in held {
        delivery.ack();
    }
    HELD as f64 / began.elapsed().as_secs_f64()
}

/// A second, with what an ack does at the least: it counts under a lock, and lets go of what is
/// shared.
fn locks() -> f64 {
    let counter = Arc::new(Mutex::new(0_u64));
    let held = vec![counter; HELD];
    let began = Instant::now();
    for counter in held {
        *black_box(&counter).lock().expect("no panic") += 1;
    }
    HELD as f64 / began.elapsed().as_secs_f64()
}

/// A consumer with so many messages before it, the first of them prefetched.
fn filled(runtime: &Runtime, count: usize) -> Consumer {
    let consumer = runtime.block_on(async {
        let flow = flowstream::open("memory:").await.expect("a storage");
        let mut producer = flow.producer("s").await.expect("a producer");
        for _ in 0..count {
            producer.feed(message()).await.expect("room");
        }
        producer.close().await.expect("all written");
        let consumer = flow.consumer("s", "g").await;
        let mut consumer = consumer.expect("a consumer");
        // The first poll claims the lease.
        let waker = noop_waker();
        let _ = consumer.poll_next_unpin(&mut Context::from_waker(&waker));
        consumer
    });
    prefetch(runtime);
    consumer
}

/// Lets the tasks of the consumer read on.
fn prefetch(runtime: &Runtime) {
    runtime.block_on(async {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    });
}

/// The same order each time.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for at in (1..items.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(at, (state % (at as u64 + 1)) as usize);
    }
}
