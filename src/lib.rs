//! Kafka-like streams inside the database you already have: an append-only log with consumer
//! groups, as a futures [`Sink`](futures_sink::Sink) and [`Stream`](futures_core::Stream).
//!
//! ```
//! # async fn example() -> flowstream::Result<()> {
//! use futures::SinkExt;
//!
//! let flow = flowstream::open("memory:").await?; // or redb:orders.redb
//!
//! let mut producer = flow.producer("orders").await?; // impl Sink<Message, Error = Error>
//! producer.send("hello".into()).await?; // durable when it resolves
//!
//! let mut consumer = flow.consumer("orders", "billing").await?; // impl Stream<Item = Result<Delivery>>
//! while let Some(delivery) = consumer.try_next().await? {
//!     println!("{}: {:?}", delivery.offset(), delivery.body());
//!     delivery.commit().await?;
//! #   break;
//! }
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
//! ```
//!
//! # What it promises
//!
//! 1. A `send` that resolved with Ok is in the log, once, whatever crashed since.
//! 2. Offsets have no gaps, and no reader skips one.
//! 3. Messages of one producer to one partition keep their order. Those given to one
//!    [`append`](Producer::append) appear together or not at all.
//! 4. Every message reaches each group at least once. After `commit().await` gave Ok it reaches
//!    that group no more.
//! 5. At most one consumer per group and partition has the lease. One that lost it notices at its
//!    next write: nothing that it writes is accepted, and it becomes a standby by itself. No
//!    machine's clock is trusted for this.
//! 6. A consumer that stops cleanly hands over at once, also by [`Flowstream::close`], which ends all
//!    of them. An idle group writes nothing.
//! 7. Forwarding a consumer into a producer of the same storage is exactly-once: the output and
//!    the group's position are written in one transaction. See [`Delivery::into_message`].
//! 8. Dropping any future, sink or stream at any await point loses nothing that was promised.
//! 9. Memory is bounded, in bytes, by the producer's buffers, one prefetch a consumer, as much again for
//!    the newest batches of all partitions, a few of the largest batches, and the batches of the
//!    deliveries that you hold.
//! 10. Partitions of one consumer take turns: one that is paused, slow or stuck keeps no other waiting.
//!
//! # In a pipeline
//!
//! A [`Delivery`] owns its message and its commit handle, and is `Send + Sync + 'static`, so it
//! goes wherever a pipeline takes it:
//!
//! ```
//! # async fn example() -> flowstream::Result<()> {
//! use flowstream::{Delivery, Error};
//! use futures::TryStreamExt;
//!
//! # let flow = flowstream::open("memory:").await?;
//! # flow.producer("in").await?.append([flowstream::Message::new("a"), flowstream::Message::new("b")]).await?;
//! # async fn work(_: &Delivery) -> Result<(), Error> { Ok(()) }
//! let consumer = flow.consumer("in", "workers").await?;
//! # let control = consumer.control();
//! # let consumer = futures::StreamExt::take(consumer, 2);
//! consumer
//!     .try_for_each_concurrent(64, |delivery| async move {
//!         work(&delivery).await?;
//!         delivery.commit().await // in whatever order; concurrent ones become one write
//!     })
//!     .await?;
//!
//! // One stream into another, exactly once:
//! let consumer = flow.consumer("in", "relay").await?;
//! # let consumer = futures::StreamExt::take(consumer, 2);
//! let producer = flow.producer("out").await?;
//! futures::StreamExt::forward(consumer.map_ok(Delivery::into_message), producer).await?;
//! # Ok(()) }
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
//! ```
//!
//! Combinators take a consumer by value; [`Consumer::control`] gives a handle to watch it and to
//! shut it down.
//!
//! # Cancel safety
//!
//! Every future of this crate may be dropped at any await point. What had been handed to the
//! storage runs to its end, in a task or a thread of its own. Each method says what that means
//! for it.
//!
//! # Storages
//!
//! | URL | what it is | feature |
//! | --- | --- | --- |
//! | `redb:PATH` | embedded, one file, one process; every commit is fsynced | `redb` (default) |
//! | `memory:` | for tests, and as a bus inside a process; gone with it | |
//! | `postgres://…` | a schema in a PostgreSQL database (14 or later), shared by any number of processes | `postgres` |
//!
//! Others implement [`storage::Storage`], and run the same tests with the feature `conformance`.
//!
//! # Where it runs
//!
//! On a tokio runtime with time enabled, of either flavour. Tasks are spawned only while there is
//! something to do, so a runtime can end at any time. While it lives it has to be driven: where
//! several runtimes share a [`Flowstream`], the tasks that all of them need run on one of them.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::disallowed_methods)]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;

// The floors of docs/ARCHITECTURE.md, from the top down.

mod open;

mod admin;
mod options;
#[cfg(feature = "postgres")]
pub mod postgres;

mod flowstream;

mod consumer;
mod producer;

mod context;

mod appender;

mod limits;

mod message;

mod session;
mod watch;

pub mod storage;

mod record;
mod runtime;

mod concurrency;
mod retry;
mod task;

mod clock;
mod name;
mod panics;
mod ranges;
mod suggest;
mod sync;

mod error;

pub use admin::{GroupInfo, ResetBuilder};
pub use appender::AppendedRow;
pub use clock::{Clock, ManualClock, SystemClock};
pub use consumer::{Consumer, ConsumerBuilder, Control, Delivery, Status};
pub use error::{Error, ErrorKind, Result};
pub use flowstream::Flowstream;
pub use message::{AppendError, Batch, Message};
pub use name::Name;
pub use open::open;
pub use options::Options;
pub use producer::{AppendReceipt, Producer, ProducerBuilder};
pub use record::Headers;
pub use session::{Commit, Committing, Pause};
pub use storage::{GroupState, Progress, Ranges, Start};

/// The programs in the README compile as they stand.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
