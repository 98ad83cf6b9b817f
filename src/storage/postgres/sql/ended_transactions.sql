-- Those of these transactions that are over: numbered from 1, and for one that was to commit a message,
-- whether that is done by then. One that began on another server is over, whatever became of it.
SELECT u.n::int, coalesce(
    u.at_offset < p.position OR p.acked @> u.at_offset OR EXISTS (
        -- As `merge_acks` counts them.
        SELECT FROM {schema}.acks a
        WHERE a.group_id = l.group_id AND a."offset" = u.at_offset AND a.epoch >= l.acks_since
    ), false)
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::bigint[])
    WITH ORDINALITY u (place, xid, stream, part, grp, at_offset, n)
LEFT JOIN {schema}.streams s ON s.name = u.stream
LEFT JOIN LATERAL (
    -- Fenced off, or the planner may walk all groups of the stream.
    SELECT * FROM {schema}.leases l
    WHERE l.stream_id = s.stream_id AND l.partition = u.part AND l.name = u.grp
    OFFSET 0
) l ON true
LEFT JOIN LATERAL (
    SELECT * FROM {schema}.positions p
    WHERE p.group_id = l.group_id ORDER BY p.generation DESC LIMIT 1
) p ON true
WHERE u.place <> (SELECT {schema}.incarnation()::text)
    OR pg_visible_in_snapshot(u.xid::xid8, pg_current_snapshot())
