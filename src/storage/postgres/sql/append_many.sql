-- Appends any number of rows. `ends` of all rows stand one after the other; so do those of the
-- attributes, of the rows that have some.
WITH place AS MATERIALIZED (
    SELECT * FROM {schema}.begin_append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
), given AS (
    SELECT r.*,
        sum(r.count) OVER (ORDER BY r.n) AS stop,
        sum(r.count) FILTER (WHERE r.attributes IS NOT NULL) OVER (ORDER BY r.n) AS a_stop
    FROM unnest($11::int[], $13::bytea[], $15::bytea[]) WITH ORDINALITY r (count, bodies, attributes, n)
), written AS (
    INSERT INTO {schema}.batches (
        stream_id, partition, base_offset, count, appended_at, batch_id,
        ends, bodies, attribute_ends, attributes
    )
    SELECT p.stream_id, p.partition, p.base_offset, g.count, p.appended_at, $1,
        ($12::int[])[g.stop - g.count + 1 : g.stop], g.bodies,
        CASE WHEN g.attributes IS NOT NULL THEN ($14::int[])[g.a_stop - g.count + 1 : g.a_stop] END,
        g.attributes
    FROM place p JOIN given g ON g.n = p.ord
    WHERE p.outcome = 'new' AND NOT EXISTS (SELECT FROM place x WHERE x.outcome <> 'new')
)
SELECT p.outcome, p.ord, p.base_offset FROM place p
