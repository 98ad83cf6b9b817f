    -- For people who read the log: text where it is some, hexadecimal digits where not.
    CREATE FUNCTION {schema}.readable(bytes bytea) RETURNS text
    IMMUTABLE STRICT LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    BEGIN
        RETURN convert_from(bytes, 'UTF8');
    EXCEPTION WHEN others THEN
        RETURN bytes::text;
    END
    $function$;

    CREATE FUNCTION {schema}.little_endian(bytes bytea, start int, length int) RETURNS bigint
    IMMUTABLE STRICT LANGUAGE sql BEGIN ATOMIC
        SELECT (sum(get_byte(bytes, start + n) * 256::numeric ^ n)
            - CASE WHEN length = 8 AND get_byte(bytes, start + 7) > 127 THEN 256::numeric ^ 8 ELSE 0 END)::bigint
        FROM generate_series(0, length - 1) n;
    END;

    -- Key, headers and timestamp of one message, which stand one after the other.
    CREATE FUNCTION {schema}.attributes(
        bytes bytea, OUT key text, OUT headers jsonb, OUT stamp timestamptz
    ) IMMUTABLE STRICT LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    DECLARE
        at int := 1;
        flags int;
        micros bigint;
        name int;
        value int;
    BEGIN
        IF octet_length(bytes) = 0 THEN
            RETURN;
        END IF;
        flags := get_byte(bytes, 0);
        IF flags & 2 <> 0 THEN
            micros := {schema}.little_endian(bytes, at, 8);
            -- In days and the rest, since an interval counts neither far nor exactly; without time
            -- zones, whose days have not all the same length.
            stamp := CASE
                WHEN micros < -210866803200000000 THEN '-infinity'
                ELSE (timestamp 'epoch' + make_interval(days => (micros / 86400000000)::int)
                    + (micros % 86400000000) * interval '1 microsecond') AT TIME ZONE 'UTC'
            END;
            at := at + 8;
        END IF;
        IF flags & 1 <> 0 THEN
            value := {schema}.little_endian(bytes, at, 4);
            key := {schema}.readable(substring(bytes FROM at + 5 FOR value));
            at := at + 4 + value;
        END IF;
        WHILE at < octet_length(bytes) LOOP
            name := {schema}.little_endian(bytes, at, 2);
            value := {schema}.little_endian(bytes, at + 2, 4);
            headers := coalesce(headers, '[]') || jsonb_build_array(jsonb_build_array(
                {schema}.readable(substring(bytes FROM at + 7 FOR name)),
                {schema}.readable(substring(bytes FROM at + 7 + name FOR value))));
            at := at + 6 + name + value;
        END LOOP;
    END
    $function$;

    -- Where the n-th value of a column ends, counted from 1; the one before the first at 0.
    CREATE FUNCTION {schema}.end_of(ends bytea, n int) RETURNS int
    IMMUTABLE LANGUAGE sql BEGIN ATOMIC
        SELECT CASE WHEN n = 0 THEN 0 ELSE
            get_byte(ends, 4 * n - 4) + (get_byte(ends, 4 * n - 3) << 8)
            + (get_byte(ends, 4 * n - 2) << 16) + (get_byte(ends, 4 * n - 1) << 24)
        END;
    END;

    -- The messages of one batch.
    CREATE FUNCTION {schema}.unpack(
        base_offset bigint, ends bytea, bodies bytea, attribute_ends bytea, attributes bytea
    ) RETURNS TABLE ("offset" bigint, key text, headers jsonb, body text, "timestamp" timestamptz)
    IMMUTABLE LANGUAGE sql BEGIN ATOMIC
        SELECT base_offset + m.n - 1, a.key, a.headers,
            {schema}.readable(substring(m.bodies FROM m.start + 1 FOR m.stop - m.start)), a.stamp
        FROM (
            SELECT n, e.bodies, e.attributes,
                {schema}.end_of(e.ends, n - 1) AS start, {schema}.end_of(e.ends, n) AS stop,
                {schema}.end_of(e.attribute_ends, n - 1) AS a_start,
                {schema}.end_of(e.attribute_ends, n) AS a_stop
            -- Once: each look would fetch what is stored out of line, and decompress it up to there.
            FROM (
                SELECT ends || '', bodies || '', attribute_ends || '', attributes || '' OFFSET 0
            ) e (ends, bodies, attribute_ends, attributes)
            CROSS JOIN generate_series(1, octet_length(e.ends) / 4) n
            OFFSET 0
        ) m
        LEFT JOIN LATERAL {schema}.attributes(
            substring(m.attributes FROM m.a_start + 1 FOR m.a_stop - m.a_start)
        ) a ON true;
    END;

    -- The log, one row a message.
    CREATE VIEW {schema}.messages AS
        SELECT s.name AS stream, b.partition, m."offset", b.appended_at,
            m.key, m.headers, m.body, m."timestamp"
        FROM {schema}.batches b
        JOIN {schema}.streams s USING (stream_id)
        LEFT JOIN (
            SELECT t.stream_id, t.partition, max(t.start_offset) AS start_offset
            FROM {schema}.trim_state t GROUP BY t.stream_id, t.partition
        ) t USING (stream_id, partition)
        CROSS JOIN LATERAL {schema}.unpack(
            b.base_offset, b.ends, b.bodies, b.attribute_ends, b.attributes
        ) m
        WHERE b.base_offset >= coalesce(t.start_offset, 0);

    COMMENT ON VIEW {schema}.messages IS 'the log, one row a message; the newest: tail(stream)';

    -- The newest messages of each partition of a stream, or those before an offset. By index: the
    -- view has to take all batches apart to find an offset.
    CREATE FUNCTION {schema}.tail(stream text, most int DEFAULT 10, before bigint DEFAULT NULL)
    RETURNS SETOF {schema}.messages STABLE LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        log record;
        low bigint;
        high bigint;
        first bigint;
    BEGIN
        FOR log IN
            SELECT s.stream_id, p.partition, l.start_offset, l.end_offset
            FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id
            CROSS JOIN LATERAL {schema}.bounds(p.stream_id, p.partition) l
            WHERE s.name = stream ORDER BY p.partition
        LOOP
            high := least(log.end_offset, before);
            low := greatest(high - most, log.start_offset);
            SELECT b.base_offset INTO first FROM {schema}.batches b
                WHERE b.stream_id = log.stream_id AND b.partition = log.partition
                    AND b.base_offset <= low
                ORDER BY b.base_offset DESC LIMIT 1;
            RETURN QUERY
                SELECT stream, b.partition, m."offset", b.appended_at, m.key, m.headers, m.body, m."timestamp"
                FROM {schema}.batches b
                CROSS JOIN LATERAL {schema}.unpack(
                    b.base_offset, b.ends, b.bodies, b.attribute_ends, b.attributes
                ) m
                WHERE b.stream_id = log.stream_id AND b.partition = log.partition
                    AND b.base_offset >= first AND b.base_offset < high
                    AND m."offset" >= low AND m."offset" < high
                ORDER BY m."offset";
        END LOOP;
    END
    $function$;

    COMMENT ON FUNCTION {schema}.tail IS 'the newest messages of each partition of a stream';
