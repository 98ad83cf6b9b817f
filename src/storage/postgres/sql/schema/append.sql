    -- Puts those appends to a partition into an order that follow another one. A row that is let
    -- go of goes to whoever asks first, and not to whoever waits: the one after the next could be
    -- before it.
    CREATE FUNCTION {schema}.lock_append_order(stream text, part int) RETURNS void LANGUAGE sql
    BEGIN ATOMIC
        SELECT pg_advisory_xact_lock(hashtextextended('{schema}/' || stream, part));
    END;

    -- What these partitions are. Each look is fenced off, here and below: where the planner thinks that
    -- fewer conditions find one row as well, it walks all partitions of the stream for each of them.
    CREATE FUNCTION {schema}.places(streams text[], parts int[])
    RETURNS TABLE (ord int, stream_id int, partition int) STABLE LANGUAGE sql BEGIN ATOMIC
        SELECT u.n::int, p.stream_id, p.partition
        FROM unnest(streams, parts) WITH ORDINALITY u (stream, part, n)
        LEFT JOIN {schema}.streams s ON s.name = u.stream
        LEFT JOIN LATERAL (
            SELECT * FROM {schema}.partitions p
            WHERE p.stream_id = s.stream_id AND p.partition = u.part
            OFFSET 0
        ) p ON true
        ORDER BY u.n;
    END;

    -- Where this row of an append is. Compared as a whole, and in this order: while a table is small and not
    -- analyzed, the planner takes the primary key for as good, and walks the partition with it.
    CREATE FUNCTION {schema}.find_row(id uuid, stream int, part int) RETURNS bigint STABLE LANGUAGE sql
    RETURN (
        SELECT b.base_offset FROM {schema}.batches b
        WHERE ROW (b.batch_id, b.stream_id, b.partition) >= ROW (id, stream, part)
            AND ROW (b.batch_id, b.stream_id, b.partition) <= ROW (id, stream, part)
        ORDER BY b.batch_id, b.stream_id, b.partition LIMIT 1
    );

    -- The same of leases.
    CREATE FUNCTION {schema}.leases_of(streams text[], parts int[], groups text[])
    RETURNS TABLE (ord int, group_id bigint) STABLE LANGUAGE sql BEGIN ATOMIC
        SELECT u.n::int, l.group_id
        FROM unnest(streams, parts, groups) WITH ORDINALITY u (stream, part, grp, n)
        LEFT JOIN {schema}.streams s ON s.name = u.stream
        LEFT JOIN LATERAL (
            SELECT l.group_id FROM {schema}.leases l
            WHERE l.stream_id = s.stream_id AND l.partition = u.part AND l.name = u.grp
            OFFSET 0
        ) l ON true
        ORDER BY u.n;
    END;

    -- Locks partitions, in the order of all who do. The caller says how to plan.
    CREATE FUNCTION {schema}.lock_partitions(streams text[], parts int[]) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    BEGIN
        PERFORM 1
            FROM (
                SELECT s.stream_id, u.part
                FROM unnest(streams, parts) u (stream, part)
                JOIN {schema}.streams s ON s.name = u.stream
                ORDER BY 1, 2
            ) u
            CROSS JOIN LATERAL (
                SELECT FROM {schema}.partitions p
                WHERE p.stream_id = u.stream_id AND p.partition = u.part FOR NO KEY UPDATE
            ) p;
    END
    $function$;

    -- Locks: the leases, then the partitions, each in one order for all. Then, with fresh snapshots:
    -- the id, the append before it, the leases, the ends of the logs. Writes the commits, and says which rows to insert.
    --
    -- One answer a row: 'new' (insert it), 'known' (it is there). Or the whole is refused:
    -- 'refused', 'early', 'fenced' (by number of the commit), 'missing' and 'forgotten' (by number of
    -- the row).
    -- An append without rows answers 'new' or 'known' once.
    CREATE FUNCTION {schema}.begin_append(
        id uuid, before uuid, streams text[], parts int[],
        c_streams text[], c_parts int[], c_groups text[], c_owners uuid[], c_epochs bigint[], c_done text[]
    ) RETURNS TABLE (
        outcome text, ord int, stream_id int, partition int, base_offset bigint, appended_at timestamptz
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        has_commits boolean := cardinality(c_groups) > 0;
        has_rows boolean := cardinality(streams) > 0;
        now_here bigint;
        r record;
        known int;
        clock timestamptz;
    BEGIN
        PERFORM {schema}.begin_write();
        IF has_commits THEN
            now_here := {schema}.incarnation();
            PERFORM 1
                FROM (
                    SELECT l.group_id FROM {schema}.leases_of(c_streams, c_parts, c_groups) l ORDER BY 1
                ) c
                CROSS JOIN LATERAL (
                    SELECT FROM {schema}.leases l WHERE l.group_id = c.group_id FOR NO KEY UPDATE
                ) l;
        END IF;
        -- Each is an entry in the server's table of locks. Who goes to many has no place in the order.
        IF before IS NOT NULL AND cardinality(streams) <= 16 THEN
            PERFORM {schema}.lock_append_order(u.stream, u.part)
                FROM (SELECT * FROM unnest(streams, parts) u (stream, part) ORDER BY 1, 2) u;
        END IF;
        PERFORM {schema}.lock_partitions(streams, parts);

        IF before IS NOT NULL
            AND NOT EXISTS (SELECT FROM {schema}.batches b WHERE b.batch_id = before)
            AND NOT EXISTS (SELECT FROM {schema}.batches b WHERE b.batch_id = id)
            AND NOT EXISTS (SELECT FROM {schema}.ids i WHERE i.batch_id = id)
        THEN
            RETURN QUERY SELECT 'early', 1, NULL::int, NULL::int, 0::bigint, NULL::timestamptz;
            RETURN;
        END IF;
        IF has_commits OR NOT has_rows THEN
            IF NOT has_rows THEN
                -- Its own id is its lock.
                INSERT INTO {schema}.ids VALUES (id, false) ON CONFLICT (batch_id) DO NOTHING;
                IF NOT FOUND THEN
                    RETURN QUERY SELECT CASE WHEN i.refused THEN 'refused' ELSE 'known' END,
                        1, NULL::int, NULL::int, 0::bigint, NULL::timestamptz
                        FROM {schema}.ids i WHERE i.batch_id = id;
                    RETURN;
                END IF;
                known := 0;
            ELSE
                SELECT count(*) INTO known FROM {schema}.batches b WHERE b.batch_id = id;
            END IF;
            IF known = 0 AND NOT EXISTS (
                SELECT FROM {schema}.ids i WHERE i.batch_id = id AND i.refused
            ) THEN
                RETURN QUERY
                    SELECT 'fenced', c.ord, NULL::int, NULL::int, 0::bigint, NULL::timestamptz
                    FROM {schema}.leases_of(c_streams, c_parts, c_groups) c
                    LEFT JOIN {schema}.leases l ON l.group_id = c.group_id
                    WHERE (l.owner = c_owners[c.ord] AND l.epoch = c_epochs[c.ord]
                        AND l.incarnation = now_here) IS NOT TRUE;
                IF FOUND THEN
                    IF NOT has_rows THEN
                        DELETE FROM {schema}.ids i WHERE i.batch_id = id;
                    END IF;
                    RETURN;
                END IF;
                RETURN QUERY
                    SELECT 'missing', u.ord, NULL::int, NULL::int, 0::bigint, NULL::timestamptz
                    FROM {schema}.places(streams, parts) u WHERE u.partition IS NULL;
                IF FOUND THEN
                    RETURN;
                END IF;
                FOR r IN
                    SELECT l.group_id, c.done::int8multirange AS done
                    FROM unnest(c_streams, c_parts, c_groups, c_done) c (stream, part, grp, done)
                    JOIN {schema}.streams s ON s.name = c.stream
                    CROSS JOIN LATERAL (
                        SELECT l.group_id FROM {schema}.leases l
                        WHERE l.stream_id = s.stream_id AND l.partition = c.part AND l.name = c.grp
                        OFFSET 0
                    ) l
                LOOP
                    PERFORM {schema}.advance(r.group_id, r.done);
                END LOOP;
            END IF;
            IF NOT has_rows THEN
                RETURN QUERY SELECT 'new', 1, NULL::int, NULL::int, 0::bigint, NULL::timestamptz;
                RETURN;
            END IF;
        END IF;

        clock := clock_timestamp();
        IF NOT EXISTS (SELECT FROM {schema}.batches b WHERE b.batch_id = id)
            AND NOT EXISTS (SELECT FROM {schema}.ids i WHERE i.batch_id = id AND i.refused)
        THEN
            RETURN QUERY
                SELECT CASE WHEN p.partition IS NULL THEN 'missing' ELSE 'new' END,
                    p.ord, p.stream_id, p.partition, coalesce(e.base_offset + e.count, 0),
                    greatest(clock, e.appended_at)
                FROM {schema}.places(streams, parts) p
                LEFT JOIN LATERAL (
                    SELECT b.base_offset, b.count, b.appended_at FROM {schema}.batches b
                    WHERE b.stream_id = p.stream_id AND b.partition = p.partition
                    ORDER BY b.base_offset DESC LIMIT 1
                ) e ON true;
            RETURN;
        END IF;
        RETURN QUERY
            SELECT
                CASE
                    WHEN p.partition IS NULL THEN 'missing'
                    WHEN k.base_offset IS NOT NULL THEN 'known'
                    WHEN i.refused THEN 'refused'
                    ELSE 'forgotten'
                END,
                p.ord, p.stream_id, p.partition, coalesce(k.base_offset, 0), clock
            FROM {schema}.places(streams, parts) p
            LEFT JOIN {schema}.ids i ON i.batch_id = id
            LEFT JOIN LATERAL {schema}.find_row(id, p.stream_id, p.partition) k (base_offset) ON true;
    END
    $function$;

    -- Where one row goes that has no commits with it: what most appends are, at two thirds of the
    -- price of begin_append. NULL if there is anything to say about it. Locks the partition; the
    -- rest is looked for with fresh snapshots.
    CREATE FUNCTION {schema}.next_place(
        id uuid, before uuid, stream text, part int,
        OUT stream_id int, OUT base_offset bigint, OUT appended_at timestamptz
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    BEGIN
        PERFORM {schema}.begin_write();
        IF before IS NOT NULL THEN
            PERFORM {schema}.lock_append_order(stream, part);
        END IF;
        SELECT p.stream_id INTO stream_id FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream FOR NO KEY UPDATE OF p;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        -- In one query: each costs about 10 us.
        SELECT coalesce(last.base_offset + last.count, 0), greatest(clock_timestamp(), last.appended_at)
            INTO base_offset, appended_at
            FROM (SELECT) one
            LEFT JOIN LATERAL (
                SELECT b.base_offset, b.count, b.appended_at, b.batch_id FROM {schema}.batches b
                WHERE b.stream_id = next_place.stream_id AND b.partition = part
                ORDER BY b.base_offset DESC LIMIT 1
            ) last ON true
            WHERE (before IS NULL OR before = last.batch_id
                    OR EXISTS (SELECT FROM {schema}.batches b WHERE b.batch_id = before))
                AND NOT EXISTS (SELECT FROM {schema}.batches b WHERE b.batch_id = id)
                AND NOT EXISTS (SELECT FROM {schema}.ids i WHERE i.batch_id = id AND i.refused);
    END
    $function$;

    -- Locks: the partitions, in the order of appends. An append with this id is either in the log
    -- by then, or finds the refusal; in repeatable read it fails at the updated row.
    CREATE FUNCTION {schema}.settle(id uuid, streams text[], parts int[])
    RETURNS TABLE (outcome text, ord int, base_offset bigint)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        mine boolean;
    BEGIN
        PERFORM {schema}.begin_write();
        PERFORM {schema}.lock_partitions(streams, parts);
        RETURN QUERY
            SELECT 'known', p.ord, k.base_offset
            FROM {schema}.places(streams, parts) p
            CROSS JOIN LATERAL {schema}.find_row(id, p.stream_id, p.partition) k (base_offset)
            WHERE k.base_offset IS NOT NULL
            ORDER BY p.ord;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT i.refused INTO mine FROM {schema}.ids i WHERE i.batch_id = id;
        IF mine IS NULL THEN
            IF EXISTS (
                SELECT FROM unnest(streams, parts) u (stream, part)
                JOIN {schema}.streams s ON s.name = u.stream
                CROSS JOIN LATERAL (
                    SELECT t.forgotten FROM {schema}.trim_state t
                    WHERE t.stream_id = s.stream_id AND t.partition = u.part
                    ORDER BY t.generation DESC LIMIT 1
                ) t
                WHERE id <= t.forgotten
            ) THEN
                RETURN QUERY SELECT 'forgotten', 0, 0::bigint;
                RETURN;
            END IF;
            INSERT INTO {schema}.ids VALUES (id, true) ON CONFLICT (batch_id) DO NOTHING;
            -- In repeatable read the look above may be older than the lock: a row with this id that
            -- is there all the same collides.
            INSERT INTO {schema}.batches (
                stream_id, partition, base_offset, count, appended_at, batch_id, bodies
            )
                SELECT p.stream_id, p.partition, -1, 0, clock_timestamp(), id, ''
                FROM {schema}.places(streams, parts) p WHERE p.partition IS NOT NULL;
            DELETE FROM {schema}.batches b
                USING (SELECT * FROM {schema}.places(streams, parts) OFFSET 0) u
                WHERE b.stream_id = u.stream_id AND b.partition = u.partition AND b.base_offset = -1;
            UPDATE {schema}.partitions p SET settled = p.settled + 1
                FROM (SELECT * FROM {schema}.places(streams, parts) OFFSET 0) u
                WHERE p.stream_id = u.stream_id AND p.partition = u.partition;
            SELECT i.refused INTO mine FROM {schema}.ids i WHERE i.batch_id = id;
        END IF;
        RETURN QUERY SELECT CASE WHEN mine THEN 'refused' ELSE 'known' END, 0, 0::bigint;
    END
    $function$;

