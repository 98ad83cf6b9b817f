-- Appends any number of rows. Where each goes is looked up by its number, in arrays of fixed length: a join
-- would compare each with each.
WITH place AS MATERIALIZED (
    SELECT * FROM {schema}.begin_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
), laid_out AS MATERIALIZED (
    SELECT array_agg(p.stream_id ORDER BY p.ord) AS stream_ids,
        array_agg(p.partition ORDER BY p.ord) AS partitions,
        array_agg(p.base_offset ORDER BY p.ord) AS base_offsets,
        array_agg(p.appended_at ORDER BY p.ord) AS times
    FROM place p
    HAVING bool_and(p.outcome = 'new')
), written AS (
    INSERT INTO {schema}.batches (
        stream_id, partition, base_offset, count, appended_at, batch_id,
        ends, bodies, attribute_ends, attributes
    )
    SELECT l.stream_ids[g.n], l.partitions[g.n], l.base_offsets[g.n], g.count, l.times[g.n], $1,
        g.ends, g.bodies, g.attribute_ends, g.attributes
    FROM laid_out l
    CROSS JOIN unnest($11::int[], $12::bytea[], $13::bytea[], $14::bytea[], $15::bytea[])
        WITH ORDINALITY g (count, ends, bodies, attribute_ends, attributes, n)
)
SELECT p.outcome, p.ord, p.base_offset,
    -- As in a read.
    greatest(-9223372036854775808, least(9223372036854775807, extract(epoch FROM p.appended_at) * 1000000))::bigint
FROM place p
