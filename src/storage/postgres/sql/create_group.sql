-- Makes a group known; false if there is no such partition. The time is in microseconds since 1970.
SELECT {schema}.create_group(
    $1, $2, $3, $4, $5, timestamp with time zone 'epoch' + ($6 * interval '1 microsecond')
)
