-- Appends one row. The function takes the locks and says where it goes.
WITH place AS MATERIALIZED (
    SELECT * FROM {schema}.begin_append($1, ARRAY[$2], ARRAY[$3::int], $4, $5, $6, $7, $8, $9)
), written AS (
    INSERT INTO {schema}.batches (
        stream_id, partition, base_offset, count, appended_at, batch_id,
        ends, bodies, attribute_ends, attributes
    )
    SELECT p.stream_id, p.partition, p.base_offset, $10::int, p.appended_at, $1,
        $11::int[], $12::bytea, $13::int[], $14::bytea
    FROM place p WHERE p.outcome = 'new'
)
SELECT p.outcome, p.ord, p.base_offset FROM place p
