    -- Which server this is: another one after a failover, after a restore, and behind another address.
    -- A failover that lost nothing is another one too. NULL on a standby, which takes no writes.
    -- A backend belongs to one server for its life, so what does not change is kept in its session.
    CREATE FUNCTION {schema}.incarnation() RETURNS bigint VOLATILE LANGUAGE plpgsql AS $function$
    DECLARE
        system text := current_setting('flowstream.system', true);
    BEGIN
        IF pg_is_in_recovery() THEN
            RETURN NULL;
        END IF;
        IF coalesce(system, '') = '' THEN
            BEGIN
                SELECT s.system_identifier INTO system FROM pg_control_system() s;
            EXCEPTION WHEN insufficient_privilege THEN
                system := 'unknown';
            END;
            SELECT system || '/' || d.oid INTO system FROM pg_database d
                WHERE d.datname = current_database();
            PERFORM set_config('flowstream.system', system, false);
        END IF;
        -- The name of the file that is being written begins with the timeline.
        RETURN hashtextextended(
            system || '/' || '{schema}'::regnamespace::oid || '/'
                || left(pg_walfile_name(pg_current_wal_lsn()), 8), 0);
    END
    $function$;

    -- Says that the backend that runs this is the one of this process, and forgets processes that
    -- are long gone.
    CREATE FUNCTION {schema}.enrol(process uuid) RETURNS bigint LANGUAGE plpgsql AS $function$
    DECLARE
        now_here bigint := {schema}.incarnation();
    BEGIN
        -- If a crash takes it along, it takes the backend along as well.
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO {schema}.members AS m (member, pid, backend_start, incarnation, enrolled_at)
            SELECT process, a.pid, a.backend_start, now_here, clock_timestamp()
            FROM pg_stat_get_activity(pg_backend_pid()) a
            ON CONFLICT (member) DO UPDATE
                SET pid = excluded.pid, backend_start = excluded.backend_start,
                    incarnation = excluded.incarnation, enrolled_at = excluded.enrolled_at;
        DELETE FROM {schema}.members m
            WHERE m.member <> process AND m.enrolled_at < clock_timestamp() - interval '1 hour'
                AND NOT EXISTS (
                    SELECT FROM pg_stat_get_activity(m.pid) a
                    WHERE a.backend_start IS NULL OR a.backend_start = m.backend_start
                );
        RETURN now_here;
    END
    $function$;

    -- Whether a process lives: NULL where that cannot be seen. The start of a backend of another
    -- role may be hidden; one from before a restart of the server says nothing.
    CREATE FUNCTION {schema}.lives(process uuid) RETURNS boolean STABLE LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan AS $function$
    DECLARE
        m {schema}.members;
        a record;
    BEGIN
        IF process IS NULL THEN
            RETURN NULL;
        END IF;
        SELECT * INTO m FROM {schema}.members x WHERE x.member = process;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        IF m.enrolled_at < pg_postmaster_start_time()
            OR m.incarnation IS DISTINCT FROM {schema}.incarnation()
        THEN
            RETURN NULL;
        END IF;
        SELECT b.backend_start INTO a FROM pg_stat_get_activity(m.pid) b;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        RETURN a.backend_start = m.backend_start;
    END
    $function$;

