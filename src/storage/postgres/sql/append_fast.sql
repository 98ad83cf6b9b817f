-- Appends one row without commits where nobody is in its way, for half of what a function costs the
-- server: one snapshot, of which everything here is a look. Else nothing, and append_plain goes.
--
-- Whoever has appended since the snapshot has taken the offset: a conflict. Whoever has refused the id
-- since has updated the row that is locked, and it is looked at again. The batch that has taken the
-- offset is kept for an hour after it was appended, so a clock that jumped is a reason to go the other
-- way. What begin_write would set is for that way, too.
INSERT INTO {schema}.batches (
    stream_id, partition, base_offset, count, appended_at, batch_id,
    ends, bodies, attribute_ends, attributes
)
SELECT p.stream_id, p.partition, coalesce(last.base_offset + last.count, 0), $4,
    greatest(clock_timestamp(), last.appended_at), $1, $5, $6, $7, $8
FROM (
    SELECT p.stream_id, p.partition
    FROM {schema}.streams s
    JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = $3
    WHERE s.name = $2 AND p.settled = (
        SELECT p.settled FROM {schema}.streams s
        JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = $3
        WHERE s.name = $2
    )
    FOR NO KEY UPDATE OF p SKIP LOCKED
) p
LEFT JOIN LATERAL (
    SELECT b.base_offset, b.count, b.appended_at FROM {schema}.batches b
    WHERE b.stream_id = p.stream_id AND b.partition = p.partition
    ORDER BY b.base_offset DESC LIMIT 1
) last ON true
WHERE current_setting('synchronous_commit') <> 'off'
    AND clock_timestamp() - statement_timestamp() < interval '10 minutes'
    AND NOT EXISTS (SELECT FROM {schema}.ids i WHERE i.batch_id = $1 AND i.refused)
ON CONFLICT DO NOTHING
RETURNING 'new', 1, base_offset,
    -- As in a read.
    greatest(-9223372036854775808, least(9223372036854775807, extract(epoch FROM appended_at) * 1000000))::bigint
