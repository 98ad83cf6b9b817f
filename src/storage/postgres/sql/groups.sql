-- The next groups in their order, at most so many ($5): of the stream $2, behind partition $3 and group $4;
-- then, if $1, of the streams behind that.
SELECT s.name AS stream, l.partition, l.name
FROM {schema}.streams s
CROSS JOIN LATERAL (
    SELECT l.partition, l.name FROM {schema}.leases l
    WHERE l.stream_id = s.stream_id AND (l.partition, l.name) > ($3, $4)
    ORDER BY l.partition, l.name LIMIT $5
) l
WHERE s.name = $2
UNION ALL
(
    SELECT s.name, l.partition, l.name
    FROM {schema}.streams s
    CROSS JOIN LATERAL (
        SELECT l.partition, l.name FROM {schema}.leases l
        WHERE l.stream_id = s.stream_id
        ORDER BY l.partition, l.name LIMIT $5
    ) l
    WHERE $1 AND s.name > $2
    ORDER BY s.name, l.partition, l.name LIMIT $5
)
ORDER BY 1, 2, 3 LIMIT $5
