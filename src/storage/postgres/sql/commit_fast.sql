-- A commit where nobody is in its way, for less than what functions cost the server: one snapshot, of
-- which everything here is a look. Else nothing, and the function goes.
--
-- Whoever wrote for the group since the snapshot has taken the generation: a conflict. Whoever claimed
-- or released the lease since, or deleted generations, has updated the row that is locked, and it is
-- looked at again. Attempts, acks of transactions, and the generations of which one in 1,024 deletes
-- the others are for the function; so is what begin_write would set.
INSERT INTO {schema}.positions (group_id, generation, position, acked)
SELECT l.group_id, last.generation + 1, next.position,
    CASE WHEN next.position > last.position
        THEN next.done - int8multirange(int8range(0, next.position)) ELSE next.done END
FROM (
    SELECT l.group_id
    FROM {schema}.streams s
    JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = $2 AND l.name = $3
    WHERE s.name = $1 AND l.owner = $4 AND l.epoch = $5
        AND l.incarnation = (SELECT {schema}.incarnation())
        AND l.trimmed_below = (
            SELECT l.trimmed_below FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = $2 AND l.name = $3
            WHERE s.name = $1
        )
    FOR NO KEY UPDATE OF l SKIP LOCKED
) l
CROSS JOIN LATERAL (
    SELECT p.* FROM {schema}.positions p
    WHERE p.group_id = l.group_id ORDER BY p.generation DESC LIMIT 1
) last
CROSS JOIN LATERAL (
    -- One union, and the position at the end of its first range: as `advance` does it.
    SELECT u.done,
        CASE WHEN lower(u.done) <= last.position
            THEN (SELECT upper(f.first) FROM (SELECT unnest(u.done) AS first LIMIT 1) f)
            ELSE last.position END AS position
    FROM (
        SELECT last.acked
            + ($6::int8multirange - int8multirange(int8range(0, last.position))) AS done
        -- Fenced off, or it would be counted anew wherever it is used.
        OFFSET 0
    ) u
    OFFSET 0
) next
WHERE current_setting('synchronous_commit') <> 'off'
    AND last.attempted = '{}'
    AND (last.generation + 1) % 1024 <> 0
    AND NOT EXISTS (
        SELECT FROM {schema}.acks a WHERE a.group_id = l.group_id AND a."offset" >= last.position
    )
ON CONFLICT DO NOTHING
RETURNING position,
    -- Where the ranges begin, and then where they end.
    CASE WHEN NOT isempty(acked) THEN (
        SELECT array_agg(lower(a.range)) || array_agg(upper(a.range))
        FROM (SELECT unnest(acked) AS range) a
    ) END
