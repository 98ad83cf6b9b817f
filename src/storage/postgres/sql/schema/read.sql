    -- The last batch to read: from the one at `first` on, until so many bytes are reached, 16 MiB or a
    -- thousand batches.
    CREATE FUNCTION {schema}.read_until(stream int, part int, first bigint, bytes bigint) RETURNS bigint
    STABLE LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} SET jit = off AS $function$
    DECLARE
        b record;
        total bigint := 0;
        batches int := 0;
        last bigint;
    BEGIN
        FOR b IN
            SELECT base_offset,
                octet_length(bodies) + 4 * count + coalesce(octet_length(attributes) + 4 * count, 0) AS size
            FROM {schema}.batches
            WHERE stream_id = stream AND partition = part AND base_offset >= first
            ORDER BY base_offset
        LOOP
            total := total + b.size;
            batches := batches + 1;
            last := b.base_offset;
            EXIT WHEN total >= least(bytes, 16777216) OR batches >= 1000;
        END LOOP;
        RETURN last;
    END
    $function$;

    -- The first batch of a partition that was appended at this time or later: times never go back
    -- within one, so the offsets are searched by halves.
    CREATE FUNCTION {schema}.appended_since(stream int, part int, moment timestamptz) RETURNS bigint
    STABLE LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        low bigint;
        middle bigint;
        high bigint;
        b record;
        answer bigint;
    BEGIN
        SELECT x.start_offset, x.end_offset INTO low, high FROM {schema}.bounds(stream, part) x;
        WHILE low < high LOOP
            middle := low + (high - low) / 2;
            SELECT base_offset, count, appended_at INTO b FROM {schema}.batches
                WHERE stream_id = stream AND partition = part AND base_offset <= middle
                ORDER BY base_offset DESC LIMIT 1;
            IF b.appended_at >= moment THEN
                answer := b.base_offset;
                high := b.base_offset;
            ELSE
                -- Beyond the middle in any case: where somebody deleted a batch it may not be.
                low := greatest(b.base_offset + b.count, middle + 1);
            END IF;
        END LOOP;
        RETURN answer;
    END
    $function$;

