-- Cancels the statements that begin with $1, all of one storage, and run for longer than $2
-- microseconds: that storage waits no longer, so nobody does. As whoever logged in: a role that was taken
-- on sees neither their texts nor may it cancel them.
SELECT pg_cancel_backend(a.pid)
FROM (SELECT set_config('role', 'none', true) AS role OFFSET 0) me
CROSS JOIN LATERAL (
    SELECT a.pid FROM pg_catalog.pg_stat_activity a
    WHERE me.role IS NOT NULL AND a.datname = current_database() AND a.usename = session_user
        AND a.state = 'active' AND starts_with(a.query, $1) AND a.pid <> pg_backend_pid()
        AND (clock_timestamp() - a.query_start) > ($2 * interval '1 microsecond')
    OFFSET 0
) a
