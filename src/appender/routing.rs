//! Which partition a message goes to.

use std::collections::{HashMap, HashSet};

use super::request::AppendRequest;
use super::rows::Targets;
use crate::message::Message;
use crate::name::Name;
use crate::storage::{Partition, StreamSettings};
use crate::sync::{Mutex, MutexGuard};

/// The streams that this process knows, with their number of partitions.
#[derive(Debug, Default)]
pub(crate) struct Routing(Mutex<Streams>);

#[derive(Debug, Default)]
struct Streams {
    known: HashMap<Name, Known>,
    /// The one that was looked up last: the next message mostly goes there, too.
    last: Option<(Name, Known)>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    partitions: u32,
    /// It may be gone.
    may_be_gone: bool,
}

impl Routing {
    pub(crate) fn learn(&self, stream: Name, settings: StreamSettings) {
        let known = Known {
            partitions: settings.partitions.max(1),
            may_be_gone: false,
        };
        let mut streams = self.streams();
        streams.last = None;
        streams.known.insert(stream, known);
    }

    /// Somebody has to look before the next append that goes to one of these.
    pub(super) fn invalidate(&self, partitions: &[Partition]) {
        let mut streams = self.streams();
        streams.last = None;
        for partition in partitions {
            if let Some(known) = streams.known.get_mut(&partition.stream) {
                known.may_be_gone = true;
            }
        }
    }

    /// The number of partitions of a stream; 1 for one that is not known.
    pub(super) fn partitions(&self, stream: &Name) -> u32 {
        self.streams().partitions(stream)
    }

    /// Whether a batch needs one of the streams that are being learnt.
    pub(super) fn needs(&self, request: &AppendRequest, learnt: &HashSet<Name>) -> bool {
        let is_learnt = |stream: &Name| learnt.contains(stream);
        !learnt.is_empty() && self.is_unknown(request) && streams(request).any(is_learnt)
    }

    /// Whether some of a batch would go to one of these partitions.
    pub(super) fn goes_to(&self, request: &AppendRequest, turn: u32, targets: &Targets) -> bool {
        let mut known = self.streams();
        let goes_there = |message: &Message| {
            let stream = message.stream().unwrap_or(&request.stream);
            let partitions = known.partitions(stream);
            let index = index_of(message, partitions, || turn);
            targets.contains(stream, index)
        };
        !targets.is_empty() && request.batch.messages.iter().any(goes_there)
    }

    pub(super) fn is_unknown(&self, request: &AppendRequest) -> bool {
        let mut known = self.streams();
        streams(request).any(|stream| known.is_unknown(stream))
    }

    pub(super) fn unknown(&self, request: &AppendRequest) -> Vec<Name> {
        let mut known = self.streams();
        let mut unknown: Vec<Name> = streams(request)
            .filter(|stream| known.is_unknown(stream))
            .cloned()
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.0.lock()
    }
}

impl Streams {
    fn get(&mut self, stream: &Name) -> Option<Known> {
        if let Some((last, known)) = &self.last
            && last == stream
        {
            return Some(*known);
        }
        let known = *self.known.get(stream)?;
        self.last = Some((stream.clone(), known));
        Some(known)
    }

    fn partitions(&mut self, stream: &Name) -> u32 {
        self.get(stream).map_or(1, |known| known.partitions)
    }

    fn is_unknown(&mut self, stream: &Name) -> bool {
        self.get(stream).is_none_or(|known| known.may_be_gone)
    }
}

fn streams(request: &AppendRequest) -> impl Iterator<Item = &Name> {
    let named = request.batch.messages.iter().filter_map(|m| m.stream());
    std::iter::once(&request.stream).chain(named)
}

/// The partition of a message. Those without a key go to the one whose turn it is.
pub(super) fn index_of(message: &Message, partitions: u32, turn: impl FnOnce() -> u32) -> u32 {
    match message.key() {
        _ if partitions == 1 => 0,
        Some(key) => partition_of(key, partitions),
        None => turn() % partitions,
    }
}

/// The partition of a key: Kafka's default, so that a key has the same number there and here.
fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// MurmurHash2 by Austin Appleby (public domain), 32 bits, with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (shift, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * shift);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The values that Kafka's own client has in its tests.
    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
