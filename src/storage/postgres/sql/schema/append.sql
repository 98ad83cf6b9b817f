    -- The place in the line of those appends to a partition that follow another one. A row that is let
    -- go of goes to whoever asks first, and not to whoever waits: the one after the next could be
    -- before it.
    CREATE FUNCTION {schema}.stand_in_line(stream text, part int) RETURNS void LANGUAGE sql
    BEGIN ATOMIC
        SELECT pg_advisory_xact_lock(hashtextextended('{schema}/' || stream, part));
    END;

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
    ) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        has_commits boolean := cardinality(c_groups) > 0;
        has_rows boolean := cardinality(streams) > 0;
        r record;
        known int;
        clock timestamptz;
    BEGIN
        PERFORM {schema}.begin_write();
        IF has_commits THEN
            PERFORM 1
                FROM unnest(c_streams, c_parts, c_groups) c (stream, part, grp)
                JOIN {schema}.streams s ON s.name = c.stream
                JOIN {schema}.leases l
                    ON l.stream_id = s.stream_id AND l.partition = c.part AND l.name = c.grp
                ORDER BY l.group_id FOR NO KEY UPDATE OF l;
        END IF;
        IF before IS NOT NULL THEN
            PERFORM {schema}.stand_in_line(u.stream, u.part)
                FROM (SELECT * FROM unnest(streams, parts) u (stream, part) ORDER BY 1, 2) u;
        END IF;
        PERFORM 1
            FROM unnest(streams, parts) u (stream, part)
            JOIN {schema}.streams s ON s.name = u.stream
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
            ORDER BY p.stream_id, p.partition FOR NO KEY UPDATE OF p;

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
                    SELECT 'fenced', c.n::int, NULL::int, NULL::int, 0::bigint, NULL::timestamptz
                    FROM unnest(c_streams, c_parts, c_groups, c_owners, c_epochs)
                        WITH ORDINALITY c (stream, part, grp, owner, epoch, n)
                    WHERE NOT EXISTS (
                        SELECT FROM {schema}.streams s
                        JOIN {schema}.leases l
                            ON l.stream_id = s.stream_id AND l.partition = c.part AND l.name = c.grp
                        WHERE s.name = c.stream AND l.owner = c.owner AND l.epoch = c.epoch
                            AND l.incarnation = {schema}.incarnation()
                    );
                IF FOUND THEN
                    IF NOT has_rows THEN
                        DELETE FROM {schema}.ids i WHERE i.batch_id = id;
                    END IF;
                    RETURN;
                END IF;
                RETURN QUERY
                    SELECT 'missing', u.n::int, NULL::int, NULL::int, 0::bigint, NULL::timestamptz
                    FROM unnest(streams, parts) WITH ORDINALITY u (stream, part, n)
                    WHERE NOT EXISTS (
                        SELECT FROM {schema}.streams s
                        JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
                        WHERE s.name = u.stream
                    );
                IF FOUND THEN
                    RETURN;
                END IF;
                FOR r IN
                    SELECT l.group_id, c.done::int8multirange AS done
                    FROM unnest(c_streams, c_parts, c_groups, c_done) c (stream, part, grp, done)
                    JOIN {schema}.streams s ON s.name = c.stream
                    JOIN {schema}.leases l
                        ON l.stream_id = s.stream_id AND l.partition = c.part AND l.name = c.grp
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
                    u.n::int, p.stream_id, p.partition, coalesce(e.base_offset + e.count, 0),
                    greatest(clock, e.appended_at)
                FROM unnest(streams, parts) WITH ORDINALITY u (stream, part, n)
                LEFT JOIN {schema}.streams s ON s.name = u.stream
                LEFT JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
                LEFT JOIN LATERAL (
                    SELECT b.base_offset, b.count, b.appended_at FROM {schema}.batches b
                    WHERE b.stream_id = p.stream_id AND b.partition = p.partition
                    ORDER BY b.base_offset DESC LIMIT 1
                ) e ON true;
            RETURN;
        END IF;
        -- The sums: while a table is small and not analyzed, the planner takes the primary key for
        -- as good as the id's index, and would walk the whole partition.
        RETURN QUERY
            SELECT
                CASE
                    WHEN p.partition IS NULL THEN 'missing'
                    WHEN k.base_offset IS NOT NULL THEN 'known'
                    WHEN i.refused THEN 'refused'
                    ELSE 'forgotten'
                END,
                u.n::int, p.stream_id, p.partition, coalesce(k.base_offset, 0), clock
            FROM unnest(streams, parts) WITH ORDINALITY u (stream, part, n)
            LEFT JOIN {schema}.ids i ON i.batch_id = id
            LEFT JOIN {schema}.streams s ON s.name = u.stream
            LEFT JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
            LEFT JOIN {schema}.batches k
                ON k.batch_id = id AND k.stream_id + 0 = p.stream_id AND k.partition + 0 = p.partition;
    END
    $function$;

    -- Where one row goes that has no commits with it: what most appends are, at two thirds of the
    -- price of begin_append. NULL if there is anything to say about it. Locks the partition; the
    -- rest is looked for with fresh snapshots.
    CREATE FUNCTION {schema}.next_place(
        id uuid, before uuid, stream text, part int,
        OUT stream_id int, OUT base_offset bigint, OUT appended_at timestamptz
    ) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    BEGIN
        PERFORM {schema}.begin_write();
        IF before IS NOT NULL THEN
            PERFORM {schema}.stand_in_line(stream, part);
        END IF;
        SELECT p.stream_id INTO stream_id FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream FOR NO KEY UPDATE OF p;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        -- In one query: each costs about 10 µs.
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
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        mine boolean;
    BEGIN
        PERFORM {schema}.begin_write();
        PERFORM 1
            FROM unnest(streams, parts) u (stream, part)
            JOIN {schema}.streams s ON s.name = u.stream
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
            ORDER BY p.stream_id, p.partition FOR NO KEY UPDATE OF p;
        RETURN QUERY
            SELECT 'known', u.n::int, b.base_offset
            FROM unnest(streams, parts) WITH ORDINALITY u (stream, part, n)
            JOIN {schema}.streams s ON s.name = u.stream
            JOIN {schema}.batches b
                ON b.batch_id = id AND b.stream_id + 0 = s.stream_id AND b.partition + 0 = u.part
            ORDER BY u.n;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT i.refused INTO mine FROM {schema}.ids i WHERE i.batch_id = id;
        IF mine IS NULL THEN
            IF EXISTS (
                SELECT FROM unnest(streams, parts) u (stream, part)
                JOIN {schema}.streams s ON s.name = u.stream
                CROSS JOIN LATERAL (
                    SELECT f.forgotten FROM {schema}.floors f
                    WHERE f.stream_id = s.stream_id AND f.partition = u.part
                    ORDER BY f.generation DESC LIMIT 1
                ) f
                WHERE id <= f.forgotten
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
                SELECT s.stream_id, u.part, -1, 0, clock_timestamp(), id, ''
                FROM unnest(streams, parts) u (stream, part)
                JOIN {schema}.streams s ON s.name = u.stream
                JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part;
            DELETE FROM {schema}.batches b USING unnest(streams, parts) u (stream, part), {schema}.streams s
                WHERE s.name = u.stream AND b.stream_id = s.stream_id AND b.partition = u.part
                    AND b.base_offset = -1;
            UPDATE {schema}.partitions p SET settled = p.settled + 1
                FROM unnest(streams, parts) u (stream, part)
                JOIN {schema}.streams s ON s.name = u.stream
                WHERE p.stream_id = s.stream_id AND p.partition = u.part;
            SELECT i.refused INTO mine FROM {schema}.ids i WHERE i.batch_id = id;
        END IF;
        RETURN QUERY SELECT CASE WHEN mine THEN 'refused' ELSE 'known' END, 0, 0::bigint;
    END
    $function$;

