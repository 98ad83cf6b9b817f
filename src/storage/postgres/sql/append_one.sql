-- Appends one row. The function takes the locks and says where it goes.
WITH place AS MATERIALIZED (
    SELECT * FROM {schema}.begin_append($1, $2, ARRAY[$3], ARRAY[$4::int], $5, $6, $7, $8, $9, $10)
), written AS (
    INSERT INTO {schema}.batches (
        stream_id, partition, base_offset, count, appended_at, batch_id,
        ends, bodies, attribute_ends, attributes
    )
    SELECT p.stream_id, p.partition, p.base_offset, $11::int, p.appended_at, $1,
        $12::bytea, $13::bytea, $14::bytea, $15::bytea
    FROM place p WHERE p.outcome = 'new'
)
SELECT p.outcome, p.ord, p.base_offset,
    -- As in a read.
    greatest(-9223372036854775808, least(9223372036854775807, extract(epoch FROM p.appended_at) * 1000000))::bigint
FROM place p
