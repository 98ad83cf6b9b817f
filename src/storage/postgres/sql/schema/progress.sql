    -- How a group stands.
    CREATE FUNCTION {schema}.state(id bigint) RETURNS TABLE (
        owner uuid, epoch bigint, generation bigint, "position" bigint, acked text,
        attempted bigint[], attempts int[], start_offset bigint, end_offset bigint,
        incarnation bigint, is_alive boolean, member uuid
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        lease {schema}.leases;
        last {schema}.positions;
        merged record;
        log record;
    BEGIN
        SELECT * INTO lease FROM {schema}.leases l WHERE l.group_id = id;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        SELECT * INTO STRICT last FROM {schema}.positions p
            WHERE p.group_id = id ORDER BY p.generation DESC LIMIT 1;
        SELECT * INTO merged FROM {schema}.merge_acks(id, last.position, last.acked);
        SELECT * INTO log FROM {schema}.bounds(lease.stream_id, lease.partition);
        RETURN QUERY SELECT lease.owner, lease.epoch, last.generation, merged."position",
            merged.acked::text, last.attempted, last.attempts, log.start_offset, log.end_offset,
            {schema}.incarnation(),
            CASE WHEN lease.owner IS NOT NULL THEN
                {schema}.is_alive(lease.member, lease.incarnation, lease.claimed_at)
            END, lease.member;
    END
    $function$;

    -- The next generation of a group: what was done before, and this; the greater count of attempts,
    -- of the first thousand that have one and are not done. The caller holds the lock of the lease,
    -- and says how to plan and where to look.
    CREATE FUNCTION {schema}.advance(
        id bigint, done int8multirange, raised bigint[] DEFAULT '{}', raised_to int[] DEFAULT '{}',
        OUT new_position bigint, OUT new_acked int8multirange
    ) LANGUAGE plpgsql AS $function$
    DECLARE
        last record;
        cut bigint;
    BEGIN
        -- Groups of which no transaction of the application did anything pay for one look.
        SELECT p.*, EXISTS (
                SELECT FROM {schema}.acks a WHERE a.group_id = id AND a."offset" >= p.position
            ) AS has_acks
            INTO STRICT last
            FROM (
                SELECT * FROM {schema}.positions p
                WHERE p.group_id = id ORDER BY p.generation DESC LIMIT 1
            ) p;
        IF last.has_acks THEN
            SELECT f.position, f.acked INTO last.position, last.acked
                FROM {schema}.merge_acks(id, last.position, last.acked) f;
        END IF;
        -- One union: with a thousand ranges each pass over all costs as much as all the rest. The position
        -- moves to the end of the first range, if that begins there.
        new_position := last.position;
        new_acked := last.acked + (done - int8multirange(int8range(0, last.position)));
        IF lower(new_acked) <= last.position THEN
            new_position := (SELECT upper(f.first) FROM (SELECT unnest(new_acked) AS first LIMIT 1) f);
            new_acked := new_acked - int8multirange(int8range(0, new_position));
        END IF;
        IF cardinality(last.attempted) > 0 OR cardinality(raised) > 0 THEN
            SELECT coalesce(array_agg(a.at ORDER BY a.at), '{}'), coalesce(array_agg(a.n ORDER BY a.at), '{}')
                INTO last.attempted, last.attempts
                FROM (
                    SELECT a.at, max(a.n) AS n
                    FROM unnest(last.attempted || raised, last.attempts || raised_to) a (at, n)
                    WHERE a.at >= new_position AND NOT new_acked @> a.at
                    GROUP BY a.at ORDER BY a.at LIMIT 1000
                ) a;
        END IF;
        INSERT INTO {schema}.positions (group_id, generation, position, acked, attempted, attempts)
            VALUES (id, last.generation + 1, new_position, new_acked, last.attempted, last.attempts);
        IF last.has_acks THEN
            PERFORM {schema}.drop_acks(id, new_position);
        END IF;
        -- The range begins where the last one ended: no dead index entry is walked. The update
        -- makes those fail whose snapshot is older (repeatable read): they would take the place
        -- of a generation that is gone.
        IF (last.generation + 1) % 1024 = 0 THEN
            SELECT l.trimmed_below INTO cut FROM {schema}.leases l WHERE l.group_id = id;
            DELETE FROM {schema}.positions p
                WHERE p.group_id = id AND p.generation >= cut AND p.generation <= last.generation;
            UPDATE {schema}.leases l SET trimmed_below = last.generation + 1 WHERE l.group_id = id;
        END IF;
    END
    $function$;

