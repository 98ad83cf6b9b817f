//! How a producer is made.

use std::future::IntoFuture;
use std::sync::Arc;

use futures_core::future::BoxFuture;
use tokio::runtime::Handle;

use super::Producer;
use super::buffer::BufferLimits;
use crate::context::Context;
use crate::error::Result;
use crate::limits::{MAX_APPEND_BYTES, MAX_APPEND_MESSAGES};
use crate::name::Name;

/// Makes a [`Producer`]: set what differs from the defaults, then `.await`.
#[derive(Debug)]
#[must_use = "a builder does nothing until it is awaited"]
pub struct ProducerBuilder {
    context: Arc<Context>,
    stream: String,
    limits: BufferLimits,
}

impl ProducerBuilder {
    pub(crate) fn new(context: Arc<Context>, stream: String) -> Self {
        Self {
            context,
            stream,
            limits: BufferLimits {
                bytes: 1 << 20,
                messages: 10_000,
            },
        }
    }

    /// A buffer leaves once it has so many bytes, keys, headers and 64 bytes a message included:
    /// 1 MiB by default, 64 MiB at most; the message that fills it may go over. The producer holds
    /// three buffers: one is filled, two are under way. While they are, they are there once more,
    /// encoded, and in the hands of the storage's driver.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes.clamp(1, MAX_APPEND_BYTES);
        self
    }

    /// A buffer leaves once it has so many messages: 10,000 by default, about a million at most.
    pub fn batch_messages(mut self, messages: usize) -> Self {
        self.limits.messages = messages.clamp(1, MAX_APPEND_MESSAGES);
        self
    }
}

impl IntoFuture for ProducerBuilder {
    type Output = Result<Producer>;
    type IntoFuture = BoxFuture<'static, Result<Producer>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self {
                context,
                stream,
                limits,
            } = self;
            let stream = Name::new(stream)?;
            context.open_stream(&stream).await?;
            Ok(Producer::new(context, stream, limits, Handle::current()))
        })
    }
}
