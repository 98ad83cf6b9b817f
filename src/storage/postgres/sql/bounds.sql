-- Where the logs of these partitions start and end.
SELECT u.n::int, l.start_offset, l.end_offset
FROM unnest($1::text[], $2::int[]) WITH ORDINALITY u (stream, part, n)
JOIN {schema}.streams s ON s.name = u.stream
CROSS JOIN LATERAL (
    -- Fenced off, or the planner may walk all partitions of the stream.
    SELECT * FROM {schema}.partitions p
    WHERE p.stream_id = s.stream_id AND p.partition = u.part
    OFFSET 0
) p
CROSS JOIN LATERAL {schema}.bounds(p.stream_id, p.partition) l
