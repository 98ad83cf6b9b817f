-- Cancels the statements that begin with $1, all of one storage, and run for longer than $2
-- microseconds: that storage waits no longer, so nobody does.
SELECT pg_cancel_backend(a.pid) FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.usename = current_user AND a.state = 'active'
    AND starts_with(a.query, $1) AND a.pid <> pg_backend_pid()
    AND clock_timestamp() - a.query_start > $2 * interval '1 microsecond'
