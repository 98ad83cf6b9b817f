    -- Trims and sweeps of a partition come one after the other.
    CREATE FUNCTION {schema}.lock_trim(stream text, part int) RETURNS void LANGUAGE sql BEGIN ATOMIC
        SELECT pg_advisory_xact_lock(hashtextextended('{schema}/trim/' || stream, part));
    END;

    -- Moves the start of the log; NULL if there is no such partition. The rows go afterwards, by
    -- sweep. Locks the state of trimming, then the partition: appends do not wait for a sweep that is under way.
    CREATE FUNCTION {schema}.trim(stream text, part int, before bigint) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        sid int;
        trimmed {schema}.trim_state;
        b record;
        start bigint;
        cut bigint;
    BEGIN
        PERFORM {schema}.begin_write();
        PERFORM {schema}.lock_trim(stream, part);
        SELECT p.stream_id INTO sid FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream FOR NO KEY UPDATE OF p;
        IF sid IS NULL THEN
            RETURN NULL;
        END IF;
        SELECT t.* INTO trimmed FROM {schema}.trim_state t
            WHERE t.stream_id = sid AND t.partition = part ORDER BY t.generation DESC LIMIT 1;
        SELECT base_offset, base_offset + count AS end_offset INTO b FROM {schema}.batches
            WHERE stream_id = sid AND partition = part AND base_offset < before
            ORDER BY base_offset DESC LIMIT 1;
        IF NOT FOUND THEN
            RETURN coalesce(trimmed.start_offset, 0);
        END IF;
        start := CASE WHEN b.end_offset <= before THEN b.end_offset ELSE b.base_offset END;
        IF start <= coalesce(trimmed.start_offset, 0) THEN
            RETURN coalesce(trimmed.start_offset, 0);
        END IF;
        -- As the ledger of positions is cut, with an update that makes those fail whose snapshot is
        -- older (repeatable read).
        IF trimmed.generation - trimmed.oldest >= 1024 THEN
            DELETE FROM {schema}.trim_state t
                WHERE t.stream_id = sid AND t.partition = part
                    AND t.generation >= trimmed.oldest AND t.generation <= trimmed.generation;
            UPDATE {schema}.partitions p SET settled = p.settled + 1
                WHERE p.stream_id = sid AND p.partition = part;
            cut := trimmed.generation + 1;
        END IF;
        INSERT INTO {schema}.trim_state
            VALUES (sid, part, coalesce(trimmed.generation, 0) + 1, start, coalesce(trimmed.emptied_below, 0),
                coalesce(trimmed.kept_from, 0), trimmed.forgotten, coalesce(cut, trimmed.oldest, 1),
                coalesce(trimmed.spare_below, 0));
        RETURN start;
    END
    $function$;

    -- A piece of the rows below the start of the log. Deletes those that are old and not among the last
    -- thousand, whose ids are still known by their rows; what is left of the piece are rows that it
    -- empties. So what is old enough is written to no more. The newest is never deleted. At most so many
    -- rows, and one at least; no more once they reach so many bytes. Says whether there may be more.
    -- Locks the state of trimming only, so appends go on.
    CREATE FUNCTION {schema}.sweep(
        stream text, part int, at_most int, bytes bigint DEFAULT 16777216
    ) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        trimmed {schema}.trim_state;
        b record;
        kept bigint;
        emptied bigint;
        spare bigint;
        is_known boolean;
        gone uuid;
        rows int := 0;
        size bigint := 0;
        is_full boolean := false;
    BEGIN
        PERFORM {schema}.begin_write();
        PERFORM {schema}.lock_trim(stream, part);
        -- Per stream, or the planner reads the whole ledger and sorts it.
        SELECT t.* INTO trimmed FROM {schema}.streams s
            CROSS JOIN LATERAL (
                SELECT * FROM {schema}.trim_state t
                WHERE t.stream_id = s.stream_id AND t.partition = part
                ORDER BY t.generation DESC LIMIT 1
            ) t
            WHERE s.name = stream;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        kept := trimmed.kept_from;
        spare := trimmed.spare_below;
        is_known := spare >= trimmed.start_offset;
        gone := trimmed.forgotten;
        -- Times never go back within a partition: what is old stands before what is not.
        FOR b IN
            SELECT x.base_offset, x.count, x.batch_id, x.appended_at,
                octet_length(x.bodies) + coalesce(octet_length(x.attributes), 0) AS weight
            FROM {schema}.batches x
            WHERE x.stream_id = trimmed.stream_id AND x.partition = trimmed.partition
                AND x.base_offset >= trimmed.kept_from AND x.base_offset < trimmed.start_offset
            ORDER BY x.base_offset
        LOOP
            EXIT WHEN b.appended_at >= clock_timestamp() - interval '1 hour';
            IF b.base_offset >= spare THEN
                EXIT WHEN is_known;
                -- Once for many sweeps: whatever had a thousand behind it has them for ever.
                spare := coalesce((
                    SELECT l.base_offset FROM {schema}.batches l
                    WHERE l.stream_id = trimmed.stream_id AND l.partition = trimmed.partition
                    ORDER BY l.base_offset DESC OFFSET 1024 LIMIT 1), spare);
                is_known := true;
                EXIT WHEN b.base_offset >= spare;
            END IF;
            is_full := rows >= at_most OR rows > 0 AND size + b.weight > bytes;
            EXIT WHEN is_full;
            rows := rows + 1;
            size := size + b.weight;
            kept := b.base_offset + greatest(b.count, 1);
            gone := greatest(gone, b.batch_id);
        END LOOP;
        DELETE FROM {schema}.batches x
            WHERE x.stream_id = trimmed.stream_id AND x.partition = trimmed.partition
                AND x.base_offset >= trimmed.kept_from AND x.base_offset < kept;

        emptied := greatest(trimmed.emptied_below, kept);
        IF NOT is_full THEN
            FOR b IN
                SELECT x.base_offset, x.count,
                    octet_length(x.bodies) + coalesce(octet_length(x.attributes), 0) AS weight
                FROM {schema}.batches x
                WHERE x.stream_id = trimmed.stream_id AND x.partition = trimmed.partition
                    AND x.base_offset >= emptied AND x.base_offset < trimmed.start_offset
                ORDER BY x.base_offset
            LOOP
                is_full := rows >= at_most OR rows > 0 AND size + b.weight > bytes;
                EXIT WHEN is_full;
                rows := rows + 1;
                size := size + b.weight;
                emptied := b.base_offset + greatest(b.count, 1);
            END LOOP;
            UPDATE {schema}.batches x
                SET ends = NULL, bodies = '', attribute_ends = NULL, attributes = NULL
                WHERE x.stream_id = trimmed.stream_id AND x.partition = trimmed.partition
                    AND x.base_offset >= greatest(trimmed.emptied_below, kept) AND x.base_offset < emptied;
        END IF;
        IF rows > 0 THEN
            INSERT INTO {schema}.trim_state
                VALUES (trimmed.stream_id, trimmed.partition, trimmed.generation + 1, trimmed.start_offset,
                    emptied, kept, gone, trimmed.oldest, spare);
        END IF;
        RETURN is_full;
    END
    $function$;
