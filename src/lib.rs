//! Kafka-like streams inside the database you already have.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod appender;
mod clock;
mod delivery;
mod error;
mod headers;
mod message;
mod name;
mod ranges;
pub mod storage;

pub use clock::{Clock, ManualClock, SystemClock};
pub use delivery::Commit;
pub use error::{Error, ErrorKind, Result};
pub use headers::Headers;
pub use message::{Batch, Message};
pub use name::Name;
