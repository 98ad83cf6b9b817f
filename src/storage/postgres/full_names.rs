//! The full names of what is built in.
//!
//! In a session of the application a name is whatever its search path finds first, and that may be a
//! function, an operator or a type of somebody else with the same name: a `clock_timestamp` for tests,
//! say. Statements are written as everybody writes SQL, and sent with the full names.
//!
//! With its full name an operator binds as all others do, so in the files what is to bind tighter stands
//! to the left, or in parentheses.

/// What looks like a function, and is a part of the grammar: also `unnest` of several arrays, which has no
/// other name. That of one array is given its full name in the files.
const GRAMMAR: [&str; 6] = [
    "coalesce", "exists", "extract", "greatest", "least", "unnest",
];

/// Types that are a part of the grammar.
const TYPES: [&str; 4] = ["bigint", "boolean", "int", "interval"];

/// The statement with the full names of all functions and types that it names without a schema, and of
/// all operators between blanks.
pub(super) fn with_full_names(sql: &str) -> String {
    let mut full = String::with_capacity(sql.len() * 2);
    // Between quotes, of either kind, nothing is a name of these.
    for (number, piece) in sql.split_inclusive(['\'', '"']).enumerate() {
        if number % 2 == 0 {
            let mut rest = piece;
            while let Some(word) = first_word(rest) {
                rest = &rest[word.len()..];
                put(&mut full, word, rest);
            }
        } else {
            full.push_str(piece);
        }
    }
    full
}

/// Letters and digits, or operators, or one other character.
fn first_word(text: &str) -> Option<&str> {
    let first = text.chars().next()?;
    let is_alike: fn(char) -> bool = match first {
        _ if is_of_name(first) => is_of_name,
        _ if is_of_operator(first) => is_of_operator,
        _ => return text.get(..first.len_utf8()),
    };
    let end = text.find(|c: char| !is_alike(c)).unwrap_or(text.len());
    text.get(..end)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_${}".contains(c)
}

fn is_of_operator(c: char) -> bool {
    "+-*/<>=~!@#%^&|".contains(c)
}

fn put(full: &mut String, word: &str, rest: &str) {
    let stands_alone = full.ends_with([' ', '\n']) && rest.starts_with([' ', '\n']);
    // All columns.
    let is_star = word == "*" && full.trim_end().ends_with("SELECT");
    if is_of_operator(word.chars().next().unwrap_or(' ')) && stands_alone && !is_star {
        *full += &format!("OPERATOR(pg_catalog.{word})");
        return;
    }
    let is_name = word.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let is_function = rest.starts_with('(') && !full.ends_with('.') && !GRAMMAR.contains(&word);
    let is_type = full.ends_with("::") && !TYPES.contains(&word) && !rest.starts_with('.');
    if is_name && (is_function || is_type) {
        full.push_str("pg_catalog.");
    }
    full.push_str(word);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_named_in_full() {
        for (sql, full) in [
            (
                "SELECT * FROM {schema}.f($1, $2)",
                "SELECT * FROM {schema}.f($1, $2)",
            ),
            ("SELECT now()", "SELECT pg_catalog.now()"),
            ("SELECT count(*), t.*", "SELECT pg_catalog.count(*), t.*"),
            (
                "a = $1::text[] AND b::int <> 'x = f(1)'",
                "a OPERATOR(pg_catalog.=) $1::pg_catalog.text[] AND b::int \
                 OPERATOR(pg_catalog.<>) 'x = f(1)'",
            ),
            (
                "greatest(-1, extract(epoch FROM a.\"at = f(\") * 10)",
                "greatest(-1, extract(epoch FROM a.\"at = f(\") OPERATOR(pg_catalog.*) 10)",
            ),
            (
                "EXISTS (SELECT FROM x) u (n)",
                "EXISTS (SELECT FROM x) u (n)",
            ),
        ] {
            assert_eq!(with_full_names(sql), full);
        }
    }
}
