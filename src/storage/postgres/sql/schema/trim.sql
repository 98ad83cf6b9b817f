    -- Moves the start of the log; NULL if there is no such partition. The rows go afterwards, by
    -- sweep. Locks the partition.
    CREATE FUNCTION {schema}.trim(stream text, part int, before bigint) RETURNS bigint
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        sid int;
        log record;
        b record;
        start bigint;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT p.stream_id INTO sid FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream FOR NO KEY UPDATE OF p;
        IF sid IS NULL THEN
            RETURN NULL;
        END IF;
        SELECT * INTO log FROM {schema}.bounds(sid, part);
        SELECT base_offset, base_offset + count AS end_offset INTO b FROM {schema}.batches
            WHERE stream_id = sid AND partition = part AND base_offset < before
            ORDER BY base_offset DESC LIMIT 1;
        IF NOT FOUND THEN
            RETURN log.start_offset;
        END IF;
        start := CASE WHEN b.end_offset <= before THEN b.end_offset ELSE b.base_offset END;
        IF start <= log.start_offset THEN
            RETURN log.start_offset;
        END IF;
        INSERT INTO {schema}.floors (stream_id, partition, start_offset) VALUES (sid, part, start)
            ON CONFLICT (stream_id, partition) DO UPDATE SET start_offset = excluded.start_offset;
        RETURN start;
    END
    $function$;

    -- Empties the oldest batches below the start of the log, so many, then deletes those that are
    -- also old and not among the last thousand, whose ids are still known that way; the newest is
    -- never deleted. Says whether there is more. Locks the floor, so appends go on.
    CREATE FUNCTION {schema}.sweep(stream text, part int, at_most int) RETURNS boolean
    LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        floor {schema}.floors;
        last bigint;
        newest bigint;
        kept bigint;
        gone uuid;
        emptied int;
        deleted int;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT f.* INTO floor FROM {schema}.streams s
            JOIN {schema}.floors f ON f.stream_id = s.stream_id AND f.partition = part
            WHERE s.name = stream FOR NO KEY UPDATE OF f;
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
        SELECT b.base_offset INTO newest FROM {schema}.batches b
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
            ORDER BY b.base_offset DESC OFFSET 1024 LIMIT 1;
        -- Times never go back within a partition: what is old stands before what is not.
        SELECT count(*), max(o.base_offset + greatest(o.count, 1)), max(o.batch_id::text)::uuid
            INTO deleted, kept, gone FROM (
                SELECT b.base_offset, b.count, b.batch_id, b.appended_at FROM {schema}.batches b
                WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                    AND b.base_offset >= floor.kept_from
                    AND b.base_offset < least(newest, coalesce(last, floor.emptied_below))
                ORDER BY b.base_offset LIMIT at_most
            ) o
            WHERE newest IS NOT NULL AND o.appended_at < clock_timestamp() - interval '1 hour';
        DELETE FROM {schema}.batches b
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                AND b.base_offset >= floor.kept_from AND b.base_offset < kept;
        UPDATE {schema}.floors f
            SET emptied_below = coalesce(last, f.emptied_below),
                kept_from = coalesce(kept, f.kept_from),
                forgotten = greatest(f.forgotten, gone)
            WHERE f.stream_id = floor.stream_id AND f.partition = floor.partition
                AND (last IS NOT NULL OR kept IS NOT NULL);
        RETURN emptied = at_most OR deleted = at_most;
    END
    $function$;

