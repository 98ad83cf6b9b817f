-- Tells other processes. Not worth waiting for the disk: who misses it looks by itself.
WITH quick AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
SELECT pg_notify($1, t.text) FROM quick, unnest($2::text[]) t (text)
