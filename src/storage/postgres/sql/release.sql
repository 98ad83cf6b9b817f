-- Gives a lease back, and tells other processes in the same transaction: the process that does this is
-- often about to end. The lock of all notifications is held for the fsync; releases are rare.
SELECT r.done, CASE WHEN r.done THEN pg_notify($6, $7) END
FROM (SELECT {schema}.release($1, $2, $3, $4, $5) AS done OFFSET 0) r
