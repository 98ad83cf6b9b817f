//! What is decoded: any bytes, and what was encoded and then hurt.

use bytes::Bytes;
use flowstream::storage::{Records, RecordsBuilder};
use flowstream::{ErrorKind, Message};

use crate::support::Random;
use crate::values::{message, some_bytes};
use crate::{assert_no_panics, seeds, watch_panics};

/// Bytes, sound or not.
fn encoded(random: &mut Random) -> Vec<u8> {
    if random.one_in(3) {
        return some_bytes(random, 120);
    }
    let messages: Vec<Message> = (0..1 + random.below(4))
        .map(|_| message(random).0)
        .collect();
    let records = messages.iter().collect::<RecordsBuilder>();
    let records = records.build().unwrap();
    let mut encoded = vec![0; records.encoded_len()];
    records.encode(&mut encoded);
    for _ in 0..random.below(4) {
        // Mostly where the lengths are.
        let near = if random.one_in(2) { 40 } else { encoded.len() };
        let at = random.below(near.min(encoded.len()));
        encoded[at] = *random.pick(&[0, 1, 0x7f, 0x80, 0xff]);
    }
    if random.one_in(3) {
        encoded.truncate(random.below(encoded.len() + 1));
    }
    encoded
}

#[test]
fn any_bytes_are_a_batch_or_an_error() {
    watch_panics();
    for seed in seeds() {
        let mut random = Random::new(seed);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..20_000 {
            let encoded = Bytes::from(encoded(&mut random));
            match Records::decode(&encoded) {
                Ok(records) => {
                    taken += 1;
                    assert!(records.size() <= encoded.len());
                    let messages: Vec<Message> = (0..records.len())
                        .map(|index| records.message(index))
                        .collect();
                    messages.iter().for_each(|message| {
                        message.headers().iter().for_each(drop);
                        let _ = message.clone().compact();
                    });
                    let mut again = vec![0; records.encoded_len()];
                    records.encode(&mut again);
                    assert_eq!(Bytes::from(again), encoded);
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.kind(), ErrorKind::Data);
                }
            }
        }
        println!("seed {seed}: {taken} batches decoded, {refused} refused");
        assert!(taken > 1_000 && refused > 1_000);
    }
    assert_no_panics();
}
