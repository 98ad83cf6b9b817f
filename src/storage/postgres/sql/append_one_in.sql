-- Leaves one row in the outbox, within a transaction of the application. Locks nothing.
INSERT INTO {schema}.outbox (
    xid, batch_id, stream, partition, count, ends, bodies, attribute_ends, attributes
)
SELECT b.xid, $2, $3, $4, $5, $6, $7, $8, $9
FROM {schema}.begin_in($1) b (xid)
RETURNING xid::text
