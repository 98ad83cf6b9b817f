-- The streams whose names are next to $1, which is among them if it is there: those before and those
-- behind it, by the index of names, at most $2 of each.
(SELECT s.name, s.partitions FROM {schema}.streams s WHERE s.name <= $1 ORDER BY s.name DESC LIMIT $2::int)
UNION ALL
(SELECT s.name, s.partitions FROM {schema}.streams s WHERE s.name > $1 ORDER BY s.name LIMIT $2::int)
