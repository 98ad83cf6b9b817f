-- The version of the schema, as text, and whether the rest of the schema is there: an application may have
-- a table of that name, too.
SELECT v.version::text, (
    SELECT count(*) FROM pg_class c
    WHERE c.relnamespace = '{schema}'::regnamespace AND c.relkind = 'r'
        AND c.relname IN ('streams', 'partitions', 'batches', 'leases', 'positions')
) = 5
FROM {schema}.version v
