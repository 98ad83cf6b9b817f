-- Takes a lease away; moves the position unless $4 is NULL. The time is in microseconds since 1970. Says
-- first whether the snapshot of each look is behind the locks.
SELECT current_setting('transaction_isolation') = 'read committed', r.* FROM {schema}.reset(
    $1, $2, $3, $4, $5, timestamp with time zone 'epoch' + ($6 * interval '1 microsecond'), $7
) r
