-- Those of these transactions that are over, in one snapshot with what they have done: numbered from
-- 1, and for one that was to commit a message, whether that is done.
SELECT u.n::int, coalesce(u.at_offset < f.position OR f.acked @> u.at_offset, false)
FROM unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::bigint[])
    WITH ORDINALITY u (xid, stream, part, grp, at_offset, n)
LEFT JOIN {schema}.streams s ON s.name = u.stream
LEFT JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = u.part AND l.name = u.grp
LEFT JOIN LATERAL (
    SELECT * FROM {schema}.positions p
    WHERE p.group_id = l.group_id ORDER BY p.generation DESC LIMIT 1
) p ON true
LEFT JOIN LATERAL {schema}.fold(l.group_id, p.position, p.acked) f ON l.group_id IS NOT NULL
WHERE pg_visible_in_snapshot(u.xid::xid8, pg_current_snapshot())
