-- Leaves rows in the outbox, within a transaction of the application. Locks nothing.
WITH written AS (
    INSERT INTO {schema}.outbox (
        xid, batch_id, stream, partition, count, ends, bodies, attribute_ends, attributes
    )
    SELECT b.xid, $2, g.stream, g.partition, g.count, g.ends, g.bodies, g.attribute_ends, g.attributes
    FROM unnest($3::text[], $4::int[], $5::int[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[])
            WITH ORDINALITY g (stream, partition, count, ends, bodies, attribute_ends, attributes, n),
        {schema}.begin_in($1) b (xid)
    ORDER BY g.n
)
SELECT pg_current_xact_id()::text
