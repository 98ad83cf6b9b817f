-- Appends any number of rows.
WITH place AS MATERIALIZED (
    SELECT * FROM {schema}.begin_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
), written AS (
    INSERT INTO {schema}.batches (
        stream_id, partition, base_offset, count, appended_at, batch_id,
        ends, bodies, attribute_ends, attributes
    )
    SELECT p.stream_id, p.partition, p.base_offset, g.count, p.appended_at, $1,
        g.ends, g.bodies, g.attribute_ends, g.attributes
    FROM place p
    JOIN unnest($11::int[], $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[])
        WITH ORDINALITY g (count, ends, bodies, attribute_ends, attributes, n) ON g.n = p.ord
    WHERE p.outcome = 'new' AND NOT EXISTS (SELECT FROM place x WHERE x.outcome <> 'new')
)
SELECT p.outcome, p.ord, p.base_offset,
    -- As in a read.
    greatest(-9223372036854775808, least(9223372036854775807, extract(epoch FROM p.appended_at) * 1000000))::bigint
FROM place p
