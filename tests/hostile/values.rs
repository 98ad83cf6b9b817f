//! Values that nobody should give, and some that anybody may.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flowstream::{Headers, Message};

use crate::support::Random;

/// The largest message that the tests allow.
pub(crate) const LIMIT: usize = 64 * 1024;

const TEXTS: [&str; 36] = [
    "",
    " ",
    ".",
    "..",
    "../../etc/passwd",
    "a",
    "A",
    "orders",
    "Orders",
    "orders ",
    "'; DROP SCHEMA flowstream CASCADE; --",
    "\"; DELETE FROM flowstream.batches; --",
    "' OR '1'='1",
    "$1",
    "$$; SELECT pg_sleep(9); $$",
    "E'\\x00'",
    "{schema}",
    "{}",
    "%s%n%x",
    "\\",
    "NULL",
    "null\0byte",
    "\0",
    "line\nbreak",
    "tab\t",
    "\u{7f}",
    "\u{85}",
    "аdmin",
    "\u{430}dmin",
    "e\u{301}",
    "\u{e9}",
    "\u{202e}sredro",
    "\u{200b}",
    "\u{feff}",
    "\u{2028}",
    "\u{1f980}\u{10ffff}",
];

/// Any text.
pub(crate) fn text(random: &mut Random) -> String {
    match random.below(10) {
        0..=3 => (*random.pick(&TEXTS)).to_owned(),
        // About as long as a name can be, in bytes and in characters.
        4 => "x".repeat(250 + random.below(12)),
        5 => "é".repeat(125 + random.below(6)),
        6 => "x".repeat(random.below(20_000)),
        7 => format!("{}{}", random.pick(&TEXTS), random.pick(&TEXTS)),
        8 => String::from_utf8_lossy(&some_bytes(random, 40)).into_owned(),
        _ => (0..random.below(60))
            .filter_map(|_| char::from_u32(random.below(0x11_0000) as u32))
            .collect(),
    }
}

/// Whether it can be the name of a stream or group, said once more.
pub(crate) fn is_name(text: &str) -> bool {
    let is_control = |c: char| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}');
    !text.is_empty() && text.len() < 256 && !text.contains(is_control)
}

/// The same for a header.
pub(crate) fn is_header(text: &str) -> bool {
    let is_control = |c: char| matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}');
    !text.is_empty() && text.len() <= 1024 && !text.contains(is_control)
}

pub(crate) fn some_bytes(random: &mut Random, most: usize) -> Vec<u8> {
    let len = random.below(most + 1);
    random.bytes(len)
}

/// Offsets, epochs, indexes: mostly at the ends of what a number can be.
pub(crate) fn number(random: &mut Random) -> u64 {
    let near = *random.pick(&[0, 1 << 31, 1 << 32, 1 << 53, i64::MAX as u64, u64::MAX]);
    match random.below(4) {
        0 => random.below(100) as u64,
        1 => random.next(),
        _ => near.wrapping_add(random.below(5) as u64).wrapping_sub(2),
    }
}

/// A time, also where no database can say it.
pub(crate) fn time(random: &mut Random) -> SystemTime {
    let distance = match random.below(3) {
        0 => Duration::from_micros(number(random)),
        1 => Duration::from_secs(number(random)),
        _ => Duration::new(number(random) >> 1, 999_999_999),
    };
    let epoch = SystemTime::UNIX_EPOCH;
    let time = match random.one_in(2) {
        true => epoch.checked_add(distance),
        false => epoch.checked_sub(distance),
    };
    time.unwrap_or(epoch)
}

/// As it is stored: whole microseconds, in 64 bits.
pub(crate) fn stored(time: SystemTime) -> SystemTime {
    let epoch = SystemTime::UNIX_EPOCH;
    let whole = |distance: Duration, most: u64| {
        let micros = u64::try_from(distance.as_micros()).unwrap_or(most);
        Duration::from_micros(micros.min(most))
    };
    match time.duration_since(epoch) {
        Ok(after) => epoch + whole(after, i64::MAX as u64),
        Err(before) if before.duration().as_micros() > i64::MAX as u128 => {
            epoch - Duration::from_micros(1 << 63)
        }
        Err(before) => epoch - whole(before.duration(), 1 << 63),
    }
}

pub(crate) fn duration(random: &mut Random) -> Duration {
    match random.below(4) {
        0 => Duration::MAX,
        1 => Duration::from_secs(number(random)),
        2 => Duration::from_nanos(random.below(9) as u64),
        _ => Duration::from_millis(number(random)),
    }
}

/// A message of any shape, and how many of its headers were refused.
pub(crate) fn message(random: &mut Random) -> (Message, u64) {
    let body = match random.below(40) {
        0 => Bytes::from(vec![0; LIMIT - 40 + random.below(80)]),
        1 => Bytes::from(random.bytes(2000)),
        2 => Bytes::from(text(random)),
        _ => Bytes::from(some_bytes(random, 60)),
    };
    let mut message = Message::new(body);
    if random.one_in(3) {
        message = message.with_key(some_bytes(random, 30));
    }
    if random.one_in(3) {
        message = message.with_timestamp(time(random));
    }
    let mut refused = 0;
    if random.one_in(3) {
        let mut headers = Headers::new();
        // Now and then a bomb.
        let count = if random.one_in(200) {
            3000
        } else {
            random.below(4)
        };
        for _ in 0..count {
            let (name, value) = (text(random), some_bytes(random, 20));
            let inserted = headers.insert(&name, &value);
            assert_eq!(inserted.is_ok(), is_header(&name), "{name:?}");
            refused += u64::from(inserted.is_err());
        }
        message = message.with_headers(headers);
    }
    (message, refused)
}

/// Whether a message came back as it went.
pub(crate) fn is_same(sent: &Message, found: &Message) -> bool {
    sent.body() == found.body()
        && sent.key() == found.key()
        && sent.headers() == found.headers()
        && sent.timestamp().map(stored) == found.timestamp()
}
