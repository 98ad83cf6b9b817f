-- Where the logs of these partitions start and end.
SELECT u.n::int, l.start_offset, l.end_offset
FROM unnest($1::text[], $2::int[]) WITH ORDINALITY u (stream, part, n)
JOIN {schema}.streams s ON s.name = u.stream
JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
CROSS JOIN LATERAL {schema}.bounds(p.stream_id, p.partition) l
