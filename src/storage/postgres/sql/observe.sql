-- How these groups stand.
SELECT u.n::int, t.*
FROM unnest($1::text[], $2::int[], $3::text[]) WITH ORDINALITY u (stream, part, grp, n)
JOIN {schema}.streams s ON s.name = u.stream
CROSS JOIN LATERAL (
    -- Fenced off, or the planner may walk all groups of the stream.
    SELECT l.group_id FROM {schema}.leases l
    WHERE l.stream_id = s.stream_id AND l.partition = u.part AND l.name = u.grp
    OFFSET 0
) l
CROSS JOIN LATERAL {schema}.state(l.group_id) t
