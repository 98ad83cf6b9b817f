    -- Which cluster this is, to all roles alike: one that may not ask would be in another place than one
    -- that may, and each would take the other's leases for those of a server that is gone.
    CREATE FUNCTION {schema}.system() RETURNS text VOLATILE SECURITY DEFINER LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $function$
    BEGIN
        RETURN (SELECT s.system_identifier FROM pg_control_system() s);
    EXCEPTION WHEN insufficient_privilege THEN
        RETURN 'unknown';
    END
    $function$;

    -- Which server this is: another one after a failover, after a restore, and behind another address.
    -- A failover that lost nothing is another one too. NULL on a standby, which takes no writes.
    -- A backend belongs to one server for its life, so what does not change is kept in its session.
    CREATE FUNCTION {schema}.incarnation() RETURNS bigint VOLATILE
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    DECLARE
        system text := current_setting('flowstream.system', true);
    BEGIN
        IF pg_is_in_recovery() THEN
            RETURN NULL;
        END IF;
        IF coalesce(system, '') = '' THEN
            SELECT {schema}.system() || '/' || d.oid INTO system FROM pg_database d
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
    CREATE FUNCTION {schema}.register(process uuid) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    DECLARE
        now_here bigint := {schema}.incarnation();
    BEGIN
        -- If a crash takes it along, it takes the backend along as well.
        PERFORM set_config('synchronous_commit', 'off', true);
        INSERT INTO {schema}.members AS m (member, pid, backend_start, incarnation, registered_at)
            SELECT process, a.pid, a.backend_start, now_here, clock_timestamp()
            FROM pg_stat_get_activity(pg_backend_pid()) a
            ON CONFLICT (member) DO UPDATE
                SET pid = excluded.pid, backend_start = excluded.backend_start,
                    incarnation = excluded.incarnation, registered_at = excluded.registered_at;
        DELETE FROM {schema}.members m
            WHERE m.member <> process AND m.registered_at < clock_timestamp() - interval '1 hour'
                AND NOT EXISTS (
                    SELECT FROM pg_stat_get_activity(m.pid) a
                    WHERE a.backend_start IS NULL OR a.backend_start = m.backend_start
                );
        RETURN now_here;
    END
    $function$;

    -- Whether whoever has a lease is there: NULL where that cannot be seen. `process` is its own, and
    -- `claimed_in` and `claimed_at` say where and when it was claimed.
    --
    -- The start of a backend of another role may be hidden. A process whose backend is from before a
    -- restart of the server comes back soon, or not at all: its listener tries each five seconds. A lease
    -- of another place (a failover, a copy of the database) is nobody's: its owner cannot write under it
    -- here, whatever became of him, and claims a new one. While his process is here, it is left to him.
    CREATE FUNCTION {schema}.is_alive(
        process uuid, claimed_in bigint, claimed_at timestamptz
    ) RETURNS boolean STABLE LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan AS $function$
    DECLARE
        now_here bigint := {schema}.incarnation();
        m {schema}.members;
        a record;
    BEGIN
        -- A standby does not show the backends of its primary.
        IF now_here IS NULL THEN
            RETURN NULL;
        END IF;
        SELECT * INTO m FROM {schema}.members x WHERE x.member = process;
        IF m.incarnation = now_here AND m.registered_at >= pg_postmaster_start_time() THEN
            SELECT b.backend_start INTO a FROM pg_stat_get_activity(m.pid) b;
            IF NOT FOUND THEN
                RETURN false;
            END IF;
            RETURN a.backend_start = m.backend_start;
        END IF;
        IF claimed_in IS DISTINCT FROM now_here OR (process IS NOT NULL AND m.member IS NULL) THEN
            RETURN false;
        END IF;
        IF process IS NULL THEN
            RETURN NULL;
        END IF;
        RETURN greatest(pg_postmaster_start_time(), claimed_at) > clock_timestamp() - interval '15 seconds';
    END
    $function$;

