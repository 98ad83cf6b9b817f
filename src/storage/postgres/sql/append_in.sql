-- Leaves rows in the outbox, within a transaction of the application. `ends` of all rows stand one
-- after the other; so do those of the attributes, of the rows that have some. Locks nothing.
WITH given AS (
    SELECT r.*,
        sum(r.count) OVER (ORDER BY r.n) AS stop,
        sum(r.count) FILTER (WHERE r.attributes IS NOT NULL) OVER (ORDER BY r.n) AS a_stop
    FROM unnest($3::text[], $4::int[], $5::int[], $7::bytea[], $9::bytea[])
        WITH ORDINALITY r (stream, partition, count, bodies, attributes, n)
), written AS (
    INSERT INTO {schema}.outbox (
        xid, batch_id, stream, partition, count, ends, bodies, attribute_ends, attributes
    )
    SELECT b.xid, $2, g.stream, g.partition, g.count,
        ($6::int[])[g.stop - g.count + 1 : g.stop], g.bodies,
        CASE WHEN g.attributes IS NOT NULL THEN ($8::int[])[g.a_stop - g.count + 1 : g.a_stop] END,
        g.attributes
    FROM given g, {schema}.begin_in($1) b (xid)
    ORDER BY g.n
)
SELECT pg_current_xact_id()::text
