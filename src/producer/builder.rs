//! How a producer is made.

use std::future::IntoFuture;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

use super::Producer;
use crate::error::Result;
use crate::flow::Flowstream;
use crate::name::Name;
use crate::options::{MAX_APPEND_BYTES, MAX_APPEND_MESSAGES};

/// Makes a [`Producer`]: set what differs from the defaults, then `.await`.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct ProducerBuilder {
    flow: Flowstream,
    stream: String,
    limits: Limits,
}

impl ProducerBuilder {
    pub(crate) fn new(flow: Flowstream, stream: String) -> Self {
        Self {
            flow,
            stream,
            limits: Limits {
                batch_bytes: 1 << 20,
                batch_messages: 10_000,
            },
        }
    }

    /// A buffer leaves once it has so many bytes, keys, headers and 64 bytes a message included:
    /// 1 MiB by default, 64 MiB at most; the message that fills it may go over. The producer holds
    /// three buffers: one is filled, two are under way. While they are, they are there once more,
    /// encoded, and in the hands of the storage's driver.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.batch_bytes = bytes.clamp(1, MAX_APPEND_BYTES);
        self
    }

    /// A buffer leaves once it has so many messages: 10,000 by default, about a million at most.
    pub fn batch_messages(mut self, messages: usize) -> Self {
        self.limits.batch_messages = messages.clamp(1, MAX_APPEND_MESSAGES);
        self
    }
}

impl IntoFuture for ProducerBuilder {
    type Output = Result<Producer>;
    type IntoFuture = BoxFuture<'static, Result<Producer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                flow,
                stream,
                limits,
            } = self;
            let stream = Name::new(stream)?;
            flow.open_stream(&stream).await?;
            Ok(Producer::new(flow, stream, limits, Handle::current()))
        })
    }
}

/// When a buffer leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) batch_bytes: usize,
    pub(super) batch_messages: usize,
}
