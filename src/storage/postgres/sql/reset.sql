-- Takes a lease away; moves the position unless $4 is NULL. The time is in microseconds since 1970.
SELECT r.* FROM {schema}.reset(
    $1, $2, $3, $4, $5, timestamptz 'epoch' + $6 * interval '1 microsecond', $7
) r
