-- How these groups stand.
SELECT u.n::int, t.*
FROM unnest($1::text[], $2::int[], $3::text[]) WITH ORDINALITY u (stream, part, grp, n)
JOIN {schema}.streams s ON s.name = u.stream
JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = u.part AND l.name = u.grp
CROSS JOIN LATERAL {schema}.state(l.group_id) t
