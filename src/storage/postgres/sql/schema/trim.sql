    -- Trims and sweeps of a partition come one after the other.
    CREATE FUNCTION {schema}.lock_floor(stream text, part int) RETURNS void LANGUAGE sql BEGIN ATOMIC
        SELECT pg_advisory_xact_lock(hashtextextended('{schema}/floor/' || stream, part));
    END;

    -- Moves the start of the log; NULL if there is no such partition. The rows go afterwards, by
    -- sweep. Locks the partition, then the floor.
    CREATE FUNCTION {schema}.trim(stream text, part int, before bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        sid int;
        floor {schema}.floors;
        b record;
        start bigint;
        cut bigint;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT p.stream_id INTO sid FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream FOR NO KEY UPDATE OF p;
        IF sid IS NULL THEN
            RETURN NULL;
        END IF;
        PERFORM {schema}.lock_floor(stream, part);
        SELECT f.* INTO floor FROM {schema}.floors f
            WHERE f.stream_id = sid AND f.partition = part ORDER BY f.generation DESC LIMIT 1;
        SELECT base_offset, base_offset + count AS end_offset INTO b FROM {schema}.batches
            WHERE stream_id = sid AND partition = part AND base_offset < before
            ORDER BY base_offset DESC LIMIT 1;
        IF NOT FOUND THEN
            RETURN coalesce(floor.start_offset, 0);
        END IF;
        start := CASE WHEN b.end_offset <= before THEN b.end_offset ELSE b.base_offset END;
        IF start <= coalesce(floor.start_offset, 0) THEN
            RETURN coalesce(floor.start_offset, 0);
        END IF;
        -- As the ledger of positions is cut, with an update that makes those fail whose snapshot is
        -- older (repeatable read).
        IF floor.generation - floor.oldest >= 1024 THEN
            DELETE FROM {schema}.floors f
                WHERE f.stream_id = sid AND f.partition = part
                    AND f.generation >= floor.oldest AND f.generation <= floor.generation;
            UPDATE {schema}.partitions p SET settled = p.settled + 1
                WHERE p.stream_id = sid AND p.partition = part;
            cut := floor.generation + 1;
        END IF;
        INSERT INTO {schema}.floors
            VALUES (sid, part, coalesce(floor.generation, 0) + 1, start, coalesce(floor.emptied_below, 0),
                coalesce(floor.kept_from, 0), floor.forgotten, coalesce(cut, floor.oldest, 1),
                coalesce(floor.spare_below, 0));
        RETURN start;
    END
    $function$;

    -- Empties the oldest batches below the start of the log, so many, then deletes those that are
    -- also old and not among the last thousand, whose ids are still known that way; the newest is
    -- never deleted. Says whether there is more. Locks the floor only, so appends go on.
    CREATE FUNCTION {schema}.sweep(stream text, part int, at_most int) RETURNS boolean
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        floor {schema}.floors;
        last bigint;
        reach bigint;
        is_old boolean;
        spare bigint;
        kept bigint;
        gone uuid;
        emptied int;
        deleted int := 0;
    BEGIN
        PERFORM {schema}.begin_write();
        PERFORM {schema}.lock_floor(stream, part);
        -- Per stream, or the planner reads the whole ledger and sorts it.
        SELECT f.* INTO floor FROM {schema}.streams s
            CROSS JOIN LATERAL (
                SELECT * FROM {schema}.floors f
                WHERE f.stream_id = s.stream_id AND f.partition = part
                ORDER BY f.generation DESC LIMIT 1
            ) f
            WHERE s.name = stream;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        SELECT count(*), max(o.base_offset + greatest(o.count, 1)) INTO emptied, last FROM (
            SELECT b.base_offset, b.count FROM {schema}.batches b
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                AND b.base_offset >= floor.emptied_below AND b.base_offset < floor.start_offset
            ORDER BY b.base_offset LIMIT at_most
        ) o;
        UPDATE {schema}.batches b
            SET ends = NULL, bodies = '', attribute_ends = NULL, attributes = NULL
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                AND b.base_offset >= floor.emptied_below AND b.base_offset < last;
        reach := coalesce(last, floor.emptied_below);
        spare := floor.spare_below;
        -- Times never go back within a partition: what is old stands before what is not.
        SELECT b.appended_at < clock_timestamp() - interval '1 hour' INTO is_old FROM {schema}.batches b
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                AND b.base_offset >= floor.kept_from AND b.base_offset < reach
            ORDER BY b.base_offset LIMIT 1;
        IF is_old THEN
            IF spare < reach THEN
                -- Once for many sweeps: whatever had a thousand behind it has them for ever.
                spare := coalesce((
                    SELECT b.base_offset FROM {schema}.batches b
                    WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                    ORDER BY b.base_offset DESC OFFSET 1024 LIMIT 1), spare);
            END IF;
            SELECT count(*), max(o.base_offset + greatest(o.count, 1)), max(o.batch_id::text)::uuid
                INTO deleted, kept, gone FROM (
                    SELECT b.base_offset, b.count, b.batch_id, b.appended_at FROM {schema}.batches b
                    WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                        AND b.base_offset >= floor.kept_from AND b.base_offset < least(spare, reach)
                    ORDER BY b.base_offset LIMIT at_most
                ) o
                WHERE o.appended_at < clock_timestamp() - interval '1 hour';
            DELETE FROM {schema}.batches b
                WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                    AND b.base_offset >= floor.kept_from AND b.base_offset < kept;
        END IF;
        IF last IS NOT NULL OR kept IS NOT NULL THEN
            INSERT INTO {schema}.floors
                VALUES (floor.stream_id, floor.partition, floor.generation + 1, floor.start_offset,
                    reach, coalesce(kept, floor.kept_from), greatest(floor.forgotten, gone),
                    floor.oldest, spare);
        END IF;
        RETURN emptied = at_most OR deleted = at_most;
    END
    $function$;

