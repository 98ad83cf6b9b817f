//! Kafka-like streams inside the database you already have.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod appender;
mod clock;
mod consumer;
mod delivery;
mod error;
mod flow;
mod headers;
mod message;
mod name;
mod options;
mod producer;
mod ranges;
mod retry;
pub mod storage;
mod watch;

pub use appender::AppendedRow;
pub use clock::{Clock, ManualClock, SystemClock};
pub use consumer::{Consumer, ConsumerBuilder, Control, Status};
pub use delivery::{Commit, Committing, Delivery};
pub use error::{Error, ErrorKind, Result};
pub use flow::Flowstream;
pub use headers::Headers;
pub use message::{Batch, Message};
pub use name::Name;
pub use options::Options;
pub use producer::{Appended, Producer, ProducerBuilder};
pub use storage::Start;

/// Opens the storage that a URL names, with the default [`Options`]: `redb:PATH` or `memory:`.
///
/// # Errors
///
/// As [`Options::open`].
///
/// # Examples
///
/// ```
/// # async fn example() -> flowstream::Result<()> {
/// let flow = flowstream::open("memory:").await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(example()).unwrap();
/// ```
pub async fn open(url: &str) -> Result<Flowstream> {
    Options::new().open(url).await
}
