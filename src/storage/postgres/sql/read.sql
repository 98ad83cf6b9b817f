-- The batches from the one that contains $3 on, up to about $4 bytes, where the log starts and ends,
-- and the epoch of the group $5, 0 if its lease is of another incarnation: one snapshot. One row
-- without a batch where there is none; no row where there is no such partition. In no order. Times in
-- microseconds since 1970.
SELECT l.start_offset, l.end_offset,
    CASE WHEN g.incarnation <> (SELECT {schema}.incarnation()) THEN 0 ELSE coalesce(g.epoch, 0) END,
    b.base_offset, b.count,
    -- What lies outside of what can be counted, infinity too, is as far off as that.
    greatest(-9223372036854775808, least(9223372036854775807, extract(epoch FROM b.appended_at) * 1000000))::bigint,
    b.ends, b.bodies, b.attribute_ends, b.attributes
FROM {schema}.streams s
JOIN {schema}.partitions p ON p.stream_id = s.stream_id
-- Once: as it stands it would be looked up again for each batch.
CROSS JOIN LATERAL (SELECT * FROM {schema}.bounds(p.stream_id, p.partition) OFFSET 0) l
LEFT JOIN {schema}.leases g
    ON g.stream_id = p.stream_id AND g.partition = p.partition AND g.name = $5
LEFT JOIN LATERAL (
    SELECT f.base_offset AS first,
        {schema}.read_until(p.stream_id, p.partition, f.base_offset, $4) AS last
    FROM (
        SELECT f.base_offset FROM {schema}.batches f
        WHERE f.stream_id = p.stream_id AND f.partition = p.partition
            AND f.base_offset <= greatest($3, l.start_offset)
        ORDER BY f.base_offset DESC LIMIT 1
    ) f
    WHERE greatest($3, l.start_offset) < l.end_offset
    LIMIT 1
) w ON true
LEFT JOIN LATERAL (
    -- Fenced off, or the planner may walk the whole partition and compare the offsets afterwards.
    SELECT * FROM {schema}.batches b
    WHERE b.stream_id = p.stream_id AND b.partition = p.partition
        AND b.base_offset >= w.first AND b.base_offset <= w.last
    OFFSET 0
) b ON true
WHERE s.name = $1 AND p.partition = $2
