    CREATE FUNCTION {schema}.create_stream(stream text, wanted int) RETURNS int
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    DECLARE
        id int;
        present int;
    BEGIN
        SELECT s.partitions INTO present FROM {schema}.streams s WHERE s.name = stream;
        IF present IS NOT NULL OR wanted IS NULL THEN
            RETURN present;
        END IF;
        PERFORM {schema}.begin_write();
        -- Waits for another who makes the same. Where the number is taken (the sequence is behind its
        -- table after an upgrade by logical replication), the next one may not be.
        LOOP
            INSERT INTO {schema}.streams (name, partitions) VALUES (stream, wanted)
                ON CONFLICT DO NOTHING RETURNING stream_id INTO id;
            EXIT WHEN id IS NOT NULL;
            SELECT s.partitions INTO present FROM {schema}.streams s WHERE s.name = stream;
            IF FOUND THEN
                RETURN present;
            END IF;
        END LOOP;
        INSERT INTO {schema}.partitions (stream_id, partition)
            SELECT id, n FROM generate_series(0, wanted - 1) n;
        RETURN wanted;
    END
    $function$;

    -- Where the log of a partition starts and ends.
    CREATE FUNCTION {schema}.bounds(stream int, part int)
    RETURNS TABLE (start_offset bigint, end_offset bigint) STABLE LANGUAGE sql BEGIN ATOMIC
        SELECT coalesce(
                (SELECT t.start_offset FROM {schema}.trim_state t
                 WHERE t.stream_id = stream AND t.partition = part
                 ORDER BY t.generation DESC LIMIT 1), 0),
            coalesce(
                (SELECT b.base_offset + b.count FROM {schema}.batches b
                 WHERE b.stream_id = stream AND b.partition = part
                 ORDER BY b.base_offset DESC LIMIT 1), 0);
    END;

