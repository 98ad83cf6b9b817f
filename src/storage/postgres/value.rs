//! Values of a statement: as parameters, or written into it.
//!
//! A pooler in transaction mode gives each message of the extended protocol to whatever session is
//! free, so a statement and its parameters, which sqlx sends apart, may meet different sessions.
//! There, a statement goes as one message of the simple protocol. Nothing of a value stands in it as
//! it is: text and bytes are hexadecimal digits, the rest is numbers. What is built in has its full name, as
//! in the statements.

use std::fmt::Write;

use sqlx::postgres::{PgArguments, Postgres};
use sqlx::query::Query;
use uuid::Uuid;

/// A value of a statement, in the type that the statement has for it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Text(&'a str),
    OptionalText(Option<&'a str>),
    Int(i32),
    OptionalInt(Option<i32>),
    Bigint(i64),
    OptionalBigint(Option<i64>),
    Id(Uuid),
    OptionalId(Option<Uuid>),
    Bool(bool),
    Bytes(Option<&'a [u8]>),
    Texts(&'a [String]),
    Ints(&'a [i32]),
    Bigints(&'a [i64]),
    Ids(&'a [Uuid]),
    ByteStrings(&'a [Option<&'a [u8]>]),
}

impl<'a> Value<'a> {
    pub(super) fn bind<'q>(
        self,
        query: Query<'q, Postgres, PgArguments>,
    ) -> Query<'q, Postgres, PgArguments>
    where
        'a: 'q,
    {
        match self {
            Self::Text(text) => query.bind(text),
            Self::OptionalText(text) => query.bind(text),
            Self::Int(number) => query.bind(number),
            Self::OptionalInt(number) => query.bind(number),
            Self::Bigint(number) => query.bind(number),
            Self::OptionalBigint(number) => query.bind(number),
            Self::Id(id) => query.bind(id),
            Self::OptionalId(id) => query.bind(id),
            Self::Bool(is_so) => query.bind(is_so),
            Self::Bytes(bytes) => query.bind(bytes),
            Self::Texts(texts) => query.bind(texts),
            Self::Ints(numbers) => query.bind(numbers),
            Self::Bigints(numbers) => query.bind(numbers),
            Self::Ids(ids) => query.bind(ids),
            Self::ByteStrings(strings) => query.bind(strings),
        }
    }

    /// The bytes of what may be large.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.map_or(0, <[u8]>::len),
            Self::ByteStrings(strings) => strings.iter().flatten().map(|bytes| bytes.len()).sum(),
            _ => 0,
        }
    }

    fn write(self, sql: &mut String) {
        match self {
            Self::Text(text) => write_text(sql, text),
            Self::OptionalText(Some(text)) => write_text(sql, text),
            Self::OptionalText(None) => sql.push_str("NULL::pg_catalog.text"),
            Self::Int(number) | Self::OptionalInt(Some(number)) => {
                let _ = write!(sql, "({number})::int");
            }
            Self::OptionalInt(None) => sql.push_str("NULL::int"),
            Self::Bigint(number) | Self::OptionalBigint(Some(number)) => {
                // In quotes, because the smallest has no positive.
                let _ = write!(sql, "'{number}'::bigint");
            }
            Self::OptionalBigint(None) => sql.push_str("NULL::bigint"),
            Self::Id(id) | Self::OptionalId(Some(id)) => write_id(sql, id),
            Self::OptionalId(None) => sql.push_str("NULL::pg_catalog.uuid"),
            Self::Bool(is_so) => sql.push_str(if is_so { "true" } else { "false" }),
            Self::Bytes(bytes) => write_bytes(sql, bytes),
            Self::Texts(texts) => write_array(sql, "pg_catalog.text", texts, |sql, text| {
                write_text(sql, text)
            }),
            Self::Ints(numbers) => write_numbers(sql, "int", numbers),
            Self::Bigints(numbers) => write_numbers(sql, "bigint", numbers),
            Self::Ids(ids) => {
                write_array(sql, "pg_catalog.uuid", ids, |sql, id| write_id(sql, *id))
            }
            Self::ByteStrings(strings) => {
                write_array(sql, "pg_catalog.bytea", strings, |sql, bytes| {
                    write_bytes(sql, *bytes)
                });
            }
        }
    }
}

fn write_hex(sql: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    sql.reserve(2 * bytes.len());
    for byte in bytes {
        sql.push(DIGITS[usize::from(byte >> 4)].into());
        sql.push(DIGITS[usize::from(byte & 15)].into());
    }
}

fn write_text(sql: &mut String, text: &str) {
    sql.push_str("pg_catalog.convert_from(pg_catalog.decode('");
    write_hex(sql, text.as_bytes());
    sql.push_str("', 'hex'), 'UTF8')");
}

fn write_bytes(sql: &mut String, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            sql.push_str("pg_catalog.decode('");
            write_hex(sql, bytes);
            sql.push_str("', 'hex')");
        }
        None => sql.push_str("NULL::pg_catalog.bytea"),
    }
}

fn write_id(sql: &mut String, id: Uuid) {
    let _ = write!(sql, "'{id}'::pg_catalog.uuid");
}

fn write_array<T>(sql: &mut String, of: &str, all: &[T], write: impl Fn(&mut String, &T)) {
    sql.push_str("ARRAY[");
    for (number, one) in all.iter().enumerate() {
        if number > 0 {
            sql.push(',');
        }
        write(sql, one);
    }
    sql.push_str("]::");
    sql.push_str(of);
    sql.push_str("[]");
}

fn write_numbers<T: std::fmt::Display>(sql: &mut String, of: &str, numbers: &[T]) {
    sql.push_str("'{");
    for (at, number) in numbers.iter().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        let _ = write!(sql, "{comma}{number}");
    }
    let _ = write!(sql, "}}'::{of}[]");
}

/// A number as the server counts: one that is too large for it is as large as it can be.
pub(super) fn as_bigint(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The statement with its values instead of `$1`, `$2` …
pub(super) fn write_into(statement: &str, values: &[Value<'_>]) -> String {
    let mut sql = String::with_capacity(statement.len() * 2);
    let mut pieces = statement.split('$');
    sql.extend(pieces.next());
    for piece in pieces {
        let digits = piece
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(piece.len());
        let (number, rest) = piece.split_at(digits);
        let value = number
            .parse::<usize>()
            .ok()
            .and_then(|number| values.get(number.checked_sub(1)?));
        match value {
            Some(value) => value.write(&mut sql),
            None => {
                sql.push('$');
                sql.push_str(number);
            }
        }
        sql.push_str(rest);
    }
    sql
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_in_a_statement_as_digits() {
        let values = [
            Value::Text("a'; DROP"),
            Value::Int(-1),
            Value::Ints(&[1, 2]),
        ];
        let sql = write_into("SELECT f($1, $2) + $3[1], $12", &values);
        let name = "pg_catalog.convert_from(pg_catalog.decode('61273b2044524f50', 'hex'), 'UTF8')";
        assert_eq!(
            sql,
            format!("SELECT f({name}, (-1)::int) + '{{1,2}}'::int[][1], $12")
        );
    }
}
