-- Tells other processes, and says whether there are any. Not worth waiting for the disk: who misses it
-- looks by itself.
WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
SELECT EXISTS (SELECT FROM {schema}.members m WHERE m.member <> $3), pg_notify($1, t.text)
FROM quick, pg_catalog.unnest($2::text[]) t (text)
