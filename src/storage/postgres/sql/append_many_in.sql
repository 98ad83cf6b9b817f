-- Leaves any number of rows in the outbox, within a transaction of the application: one call, with one
-- number, which the first row gets. Locks nothing.
WITH given AS MATERIALIZED (
    SELECT * FROM unnest(
        $3::text[], $4::int[], $5::int[], $6::bytea[], $7::bytea[], $8::bytea[], $9::bytea[]
    ) WITH ORDINALITY g (stream, partition, count, ends, bodies, attribute_ends, attributes, number)
), first AS (
    INSERT INTO {schema}.outbox (
        xid, batch_id, stream, partition, count, ends, bodies, attribute_ends, attributes
    )
    SELECT b.xid, $2, g.stream, g.partition, g.count, g.ends, g.bodies, g.attribute_ends, g.attributes
    FROM {schema}.begin_in($1) b (xid), given g WHERE g.number = 1
    RETURNING xid, id
), others AS (
    INSERT INTO {schema}.outbox (
        xid, id, number, batch_id, stream, partition, count, ends, bodies, attribute_ends, attributes
    )
    OVERRIDING SYSTEM VALUE
    SELECT f.xid, f.id, g.number, $2, g.stream, g.partition, g.count, g.ends, g.bodies,
        g.attribute_ends, g.attributes
    FROM first f, given g WHERE g.number > 1
)
SELECT f.xid::text FROM first f
