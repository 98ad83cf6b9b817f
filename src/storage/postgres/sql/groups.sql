-- The groups of the stream $1, or of all.
SELECT s.name, l.partition, l.name
FROM {schema}.streams s
JOIN {schema}.leases l ON l.stream_id = s.stream_id
WHERE $1::text IS NULL OR s.name = $1
ORDER BY s.name, l.partition, l.name
