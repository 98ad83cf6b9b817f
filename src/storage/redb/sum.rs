//! Checksums of values. Each is over the key as well, because redb verifies its own only after a
//! crash, or when it is asked to read the whole file.

/// The checksum, and what `write` writes.
pub(super) fn seal(seed: u64, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; size_of::<u64>()];
    write(&mut out);
    let sum = checksum(seed, &out[size_of::<u64>()..]);
    out[..size_of::<u64>()].copy_from_slice(&sum.to_le_bytes());
    out
}

pub(super) fn unseal(seed: u64, value: &[u8]) -> Option<&[u8]> {
    let (sum, sealed) = value.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == checksum(seed, sealed)).then_some(sealed)
}

/// Not for secrets, only against damage: each step is a bijection, so that a change within one
/// word is always seen. Four lanes, because a multiplication takes as long as four others begin.
pub(super) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut lanes = [seed, !seed, seed.rotate_left(16), !seed.rotate_left(16)];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut sum = lanes.into_iter().fold(bytes.len() as u64, mix);
    for part in tail.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        sum = mix(sum, u64::from_le_bytes(word));
    }
    sum
}

pub(super) fn mix(sum: u64, word: u64) -> u64 {
    (sum ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
