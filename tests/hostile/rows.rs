//! Rows as nobody but a stranger writes them, and what has to come of each.

/// What has to come of a damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wanted {
    /// Somebody is told, by an error of the kind `Data`.
    Told,
    /// The same, `NotFound`.
    Gone,
    /// All messages come, or those that are left.
    Works,
}
use Wanted::{Gone, Told, Works};

/// The column `ends` or `attribute_ends` as SQL.
pub(crate) fn ends(ends: &[i32]) -> String {
    let bytes = ends.iter().flat_map(|end| end.to_le_bytes());
    let digits: String = bytes.map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{digits}'::bytea")
}

/// In `batches`: what is set, and in the batch at which offset.
pub(crate) fn batches() -> Vec<(String, u64, Wanted)> {
    let mut all = Vec::new();
    let mut add = |set: &str, at, wanted| all.push((set.to_owned(), at, wanted));
    for (count, at) in [
        (3, 2),
        (0, 2),
        (1, 6),
        (i32::MAX, 6),
        (-5, 6),
        (i32::MIN, 6),
        (-1, 0),
    ] {
        add(&format!("count = {count}"), at, Told);
    }
    for wrong in [
        &[5, 1][..],
        &[1, 1000],
        &[-1, 2],
        &[1],
        &[1, 2, 3],
        &[i32::MAX, i32::MIN],
        &[],
    ] {
        add(&format!("ends = {}", ends(wrong)), 2, Told);
    }
    add("ends = NULL", 2, Told);
    add("bodies = ''", 2, Told);
    for (base, at) in [
        (-7, 0),
        (i64::MIN, 0),
        (3, 4),
        (1, 2),
        (i64::MAX, 6),
        (i64::MAX - 1, 6),
    ] {
        add(&format!("base_offset = {base}"), at, Told);
    }
    for time in [
        "infinity",
        "-infinity",
        "294276-12-31 23:59:59.999999+00",
        "0001-01-01",
        "4713-01-01 BC",
        "1969-12-31",
    ] {
        add(&format!("appended_at = '{time}'"), 2, Works);
    }
    // Flags; a name of one byte and a value of one byte.
    let header = |name: &str| format!("'\\x00010001000000{name}78'::bytea");
    let attributes =
        |of: &[i32], bytes: &str| format!("attribute_ends = {}, attributes = {bytes}", ends(of));
    for name in ["61", "0a", "00", "7f"] {
        add(&attributes(&[9, 9], &header(name)), 2, Works);
    }
    add(&attributes(&[7, 7], "'\\x00000001000000'::bytea"), 2, Told);
    for cut in 1..8 {
        let bytes = format!("substring({} FOR {cut})", header("61"));
        add(
            &attributes(&[cut, cut], &bytes),
            2,
            if cut == 1 { Works } else { Told },
        );
    }
    add(&attributes(&[9, 4], &header("61")), 2, Told);
    add(
        &format!("attribute_ends = NULL, attributes = {}", header("61")),
        2,
        Told,
    );
    add(
        &format!("attribute_ends = {}, attributes = NULL", ends(&[9, 9])),
        2,
        Told,
    );
    // A time of its own that no table can hold.
    for micros in ["0000000000000080", "ffffffffffffff7f", "0000000000000000"] {
        add(
            &attributes(&[9, 9], &format!("'\\x02{micros}'::bytea")),
            2,
            Works,
        );
    }
    all
}

/// In other tables: `$S` is the id of the stream, `$G` that of its group.
pub(crate) const OTHERS: &[(&str, Wanted)] = &[
    (
        "DELETE FROM batches WHERE stream_id = $S AND base_offset = 2",
        Told,
    ),
    (
        "DELETE FROM batches WHERE stream_id = $S AND base_offset IN (2, 4); \
         UPDATE batches SET appended_at = '1960-01-01' WHERE stream_id = $S AND base_offset = 0",
        Told,
    ),
    // More than are taken away in one statement.
    (
        "INSERT INTO trim_state VALUES ($S, 0, 1, 1400); \
         INSERT INTO batches SELECT $S, 0, n, CASE n WHEN 1500 THEN 1 ELSE -1000 END, now(), gen_random_uuid(), NULL, '' \
         FROM generate_series(8, 1500) n",
        Told,
    ),
    (
        "INSERT INTO batches VALUES (99999, 0, 0, 1, now(), gen_random_uuid(), NULL, 'x')",
        Works,
    ),
    (
        "INSERT INTO batches VALUES ($S, -1, 0, 1, now(), gen_random_uuid(), NULL, 'x')",
        Works,
    ),
    ("DELETE FROM partitions WHERE stream_id = $S", Gone),
    (
        "UPDATE partitions SET settled = -2147483648 WHERE stream_id = $S",
        Works,
    ),
    ("INSERT INTO trim_state VALUES ($S, 0, 1, 1000)", Told),
    (
        "INSERT INTO trim_state VALUES ($S, 0, 1, 9223372036854775807)",
        Told,
    ),
    ("INSERT INTO trim_state VALUES ($S, 0, 1, -1)", Told),
    (
        "INSERT INTO trim_state VALUES ($S, 0, 1, 0, -5, 9223372036854775807, gen_random_uuid())",
        Works,
    ),
    ("INSERT INTO trim_state VALUES (99999, 0, 1, 1)", Works),
    (
        "INSERT INTO trim_state VALUES ($S, 0, 9223372036854775807, 0)",
        Told,
    ),
    (
        "INSERT INTO trim_state VALUES ($S, 0, -5, 0, 0, 0, NULL, -9223372036854775808)",
        Works,
    ),
    (
        "UPDATE streams SET partitions = 2147483647 WHERE stream_id = $S",
        Told,
    ),
    (
        "UPDATE streams SET partitions = -1 WHERE stream_id = $S",
        Told,
    ),
    (
        "UPDATE streams SET partitions = 0 WHERE stream_id = $S",
        Told,
    ),
    ("DELETE FROM streams WHERE stream_id = $S", Gone),
    (
        "UPDATE positions SET position = 1000000 WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE positions SET position = 9223372036854775807 WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE positions SET position = -1 WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET position = -9223372036854775808 WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET acked = '{(,)}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET acked = '{[3,)}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET acked = '{(,3)}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET acked = '{[-5,-3)}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET acked = '{[100,9223372036854775807)}' WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE positions SET acked = '{}' WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE positions SET generation = 9223372036854775807 WHERE group_id = $G AND generation = (SELECT max(generation) FROM positions WHERE group_id = $G)",
        Told,
    ),
    (
        "DELETE FROM positions WHERE group_id = $G; INSERT INTO positions VALUES ($G, -5, 0)",
        Told,
    ),
    ("DELETE FROM positions WHERE group_id = $G", Told),
    ("INSERT INTO positions VALUES (-1, 0, 0)", Works),
    (
        "UPDATE positions SET attempted = '{0,NULL}', attempts = '{1,NULL}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET attempted = '{-1}', attempts = '{1}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET attempted = '{0}', attempts = '{-1}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE positions SET attempted = '{0}', attempts = '{2147483647}' WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE positions SET attempted = '{0,1,2}', attempts = '{}' WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE positions SET attempted = '{{0,1},{2,3}}', attempts = '{{1,1},{1,1}}' WHERE group_id = $G",
        Told,
    ),
    (
        "UPDATE leases SET epoch = 9223372036854775807 WHERE group_id = $G",
        Told,
    ),
    ("UPDATE leases SET epoch = -5 WHERE group_id = $G", Told),
    (
        "UPDATE leases SET incarnation = NULL, member = NULL, claimed_at = 'infinity' WHERE group_id = $G",
        Works,
    ),
    (
        "UPDATE leases SET trimmed_below = 9223372036854775807, acks_from = -9223372036854775808 WHERE group_id = $G",
        Works,
    ),
    (
        "INSERT INTO leases (stream_id, partition, name) VALUES ($S, 0, '')",
        Told,
    ),
    (
        "INSERT INTO leases (stream_id, partition, name) VALUES ($S, 0, E'\\x01')",
        Told,
    ),
    (
        "INSERT INTO leases (stream_id, partition, name) VALUES ($S, -1, 'g')",
        Told,
    ),
    (
        "INSERT INTO leases (stream_id, partition, name) VALUES (99999, 0, 'g')",
        Works,
    ),
    (
        "INSERT INTO members VALUES ('00000000-0000-0000-0000-000000000001', -1, 'infinity', 0, '-infinity'); \
      UPDATE leases SET owner = gen_random_uuid(), member = '00000000-0000-0000-0000-000000000001' WHERE group_id = $G",
        Works,
    ),
    ("INSERT INTO ids VALUES (gen_random_uuid(), true)", Works),
];
