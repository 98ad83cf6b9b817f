-- Appends one row without commits, if its id is not known: else nothing, and append_one says what
-- is the matter.
INSERT INTO {schema}.batches (
    stream_id, partition, base_offset, count, appended_at, batch_id,
    ends, bodies, attribute_ends, attributes
)
SELECT p.stream_id, $3, p.base_offset, $4, p.appended_at, $1, $5, $6, $7, $8
FROM {schema}.next_place($1, $9, $2, $3) p
WHERE p.base_offset IS NOT NULL
RETURNING 'new', 1, base_offset,
    -- As in a read.
    greatest(-9223372036854775808, least(9223372036854775807, extract(epoch FROM appended_at) * 1000000))::bigint
