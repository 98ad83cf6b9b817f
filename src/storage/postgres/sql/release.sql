-- Gives a lease back, and tells other processes in the same transaction: the process that does this is
-- often about to end. The lock of all notifications is held for the fsync; releases are rare. Nobody is
-- told where $7 is NULL.
SELECT r.done, CASE WHEN r.done AND $7::text IS NOT NULL THEN pg_notify($6, $7) END
FROM (SELECT {schema}.release($1, $2, $3, $4, $5) AS done OFFSET 0) r
