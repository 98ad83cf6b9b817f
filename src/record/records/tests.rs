use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::message::Message;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn message() -> impl Strategy<Value = Message> {
    let headers = prop::collection::vec(("[a-z]{1,8}", bytes()), 0..3);
    let micros = prop::option::of(-1_000_000i64..2_000_000);
    (bytes(), prop::option::of(bytes()), headers, micros).prop_map(
        |(body, key, headers, micros)| {
            let mut message = Message::new(body);
            if let Some(key) = key {
                message = message.with_key(key);
            }
            for (name, value) in headers {
                message = message.with_header(&name, value).unwrap();
            }
            match micros {
                Some(micros) => message.with_timestamp(from_micros(micros)),
                None => message,
            }
        },
    )
}

fn same(a: &Message, b: &Message) -> bool {
    (a.body(), a.key(), a.headers(), a.timestamp())
        == (b.body(), b.key(), b.headers(), b.timestamp())
}

fn encode(records: &Records) -> Vec<u8> {
    let mut encoded = vec![0; records.encoded_len()];
    records.encode(&mut encoded);
    encoded
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(messages in prop::collection::vec(message(), 1..20)) {
        let records = messages.iter().collect::<RecordsBuilder>().build().unwrap();
        let decoded = Records::decode(&encode(&records).into()).unwrap();
        prop_assert!(records == decoded);
        prop_assert_eq!(decoded.len() as usize, messages.len());
        for (index, message) in messages.iter().enumerate() {
            prop_assert!(same(message, &decoded.message(index as u32)), "{}", index);
        }
    }

    #[test]
    fn damaged_batches_are_errors_and_never_panics(
        messages in prop::collection::vec(message(), 1..5),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut encoded = encode(&messages.iter().collect::<RecordsBuilder>().build().unwrap());
        for (at, byte) in damage {
            let at = at.index(encoded.len());
            encoded[at] = byte;
        }
        for encoded in [encoded.clone(), encoded[..cut.index(encoded.len())].to_vec()] {
            if let Ok(records) = Records::decode(&encoded.into()) {
                for index in 0..records.len() {
                    records.message(index);
                }
            }
        }
    }
}

#[test]
fn plain_messages_have_no_attributes() {
    let plain = [Message::new("a"), Message::new("bc"), Message::new("")];
    let records = plain.iter().collect::<RecordsBuilder>().build().unwrap();
    assert!(records.0.attributes.is_none());
    assert_eq!(
        (&records.bodies()[..], records.ends()),
        (&b"abc"[..], &[1, 3, 3][..])
    );
    let late = [
        Message::new("a"),
        Message::new("b").with_timestamp(SystemTime::UNIX_EPOCH + Duration::from_micros(7)),
    ];
    let records = late.iter().collect::<RecordsBuilder>().build().unwrap();
    assert_eq!(records.message(0).timestamp(), None);
    assert_eq!(records.message(1).timestamp(), late[1].timestamp());
    assert!(RecordsBuilder::default().build().is_none());
}

#[test]
fn a_batch_has_nothing_to_spare() {
    let mut builder = RecordsBuilder::default();
    for _ in 0..1_100 {
        builder.push(&Message::new(vec![1; 1_000]));
    }
    let records = builder.build().unwrap();
    let columns = Arc::into_inner(records.0).unwrap();
    let bytes = columns.bodies.bytes.try_into_mut().unwrap();
    assert!(bytes.capacity() <= bytes.len() * 9 / 8);
}

#[test]
fn a_builder_counts_its_messages() {
    let mut builder = RecordsBuilder::default();
    assert!(builder.is_empty());
    for count in 1..4 {
        builder.push(&Message::new("m"));
        assert_eq!((builder.len(), builder.is_empty()), (count, false));
    }
}
