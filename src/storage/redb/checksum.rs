//! Checksums of values. Each is over the key as well, because redb verifies its own only after a
//! crash, or when it is asked to read the whole file.

/// A value that begins with the checksum of what `write` puts behind it. The seed stands for the key.
pub(super) fn with_checksum(seed: u64, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![0; size_of::<u64>()];
    write(&mut out);
    let checksum = checksum(seed, &out[size_of::<u64>()..]);
    out[..size_of::<u64>()].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// What stands behind the checksum of a value, if the checksum is right.
pub(super) fn verify(seed: u64, value: &[u8]) -> Option<&[u8]> {
    let (stored, rest) = value.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*stored) == checksum(seed, rest)).then_some(rest)
}

/// The checksum of these bytes: not for secrets, only against damage. Each step is a bijection, so
/// that a change within one word is always seen. Four lanes, because a multiplication takes as long
/// as four others begin.
pub(super) fn checksum(seed: u64, bytes: &[u8]) -> u64 {
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut lanes = [seed, !seed, seed.rotate_left(16), !seed.rotate_left(16)];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<8>().0) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let mut checksum = lanes.into_iter().fold(bytes.len() as u64, mix);
    for part in tail.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        checksum = mix(checksum, u64::from_le_bytes(word));
    }
    checksum
}

/// Takes one word into a checksum; also makes the seed of a key of two words.
pub(super) fn mix(checksum: u64, word: u64) -> u64 {
    (checksum ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}
