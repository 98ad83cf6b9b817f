-- The schema of flowstream, version 1.
--
-- Made when a storage is opened, or by hand where the application has no right to make it. Running
-- it again changes nothing. One statement: it is there as a whole or not at all, and of those that
-- run it at once, one makes it (the advisory lock) and the others find it.
DO $migrate$
DECLARE
    found int;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema}', 7215846520348));
    IF to_regclass('{schema}.version') IS NOT NULL THEN
        SELECT v.version INTO found FROM {schema}.version v;
        IF found IS NULL THEN
            -- A snapshot from before the lock (repeatable read): a fresh statement sees it.
            RAISE EXCEPTION 'the schema was made meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    IF found >= 1 THEN
        RETURN;
    END IF;

    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;

    CREATE TABLE {schema}.version (version int NOT NULL);
    INSERT INTO {schema}.version VALUES (1);

    CREATE TABLE {schema}.streams (
        stream_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE,
        partitions int NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    );

    -- The lock of each partition. A lock leaves no dead row version behind, so rows are locked and
    -- not updated; only settle does, which is rare, so that a waiting append in repeatable read fails.
    CREATE TABLE {schema}.partitions (
        stream_id int NOT NULL,
        partition int NOT NULL,
        settled int NOT NULL DEFAULT 0,
        PRIMARY KEY (stream_id, partition)
    );

    -- The log: one row a batch. The bodies stand one after the other; `ends` says where each ends.
    -- Attributes (key, headers, timestamp) the same, NULL where no message has any. A batch that was
    -- trimmed and is kept for its id has no `ends`.
    CREATE TABLE {schema}.batches (
        stream_id int NOT NULL,
        partition int NOT NULL,
        base_offset bigint NOT NULL,
        count int NOT NULL,
        appended_at timestamptz NOT NULL,
        batch_id uuid NOT NULL,
        ends int[],
        bodies bytea NOT NULL,
        attribute_ends int[],
        attributes bytea,
        PRIMARY KEY (stream_id, partition, base_offset),
        CONSTRAINT batches_id UNIQUE (batch_id, stream_id, partition)
    );
    ALTER TABLE {schema}.batches
        ALTER COLUMN ends SET STORAGE EXTERNAL,
        ALTER COLUMN bodies SET STORAGE EXTERNAL,
        ALTER COLUMN attribute_ends SET STORAGE EXTERNAL,
        ALTER COLUMN attributes SET STORAGE EXTERNAL;

    -- What trimming left: where the log starts, which rows are still kept below, and the greatest
    -- id of those that are not.
    CREATE TABLE {schema}.floors (
        stream_id int NOT NULL,
        partition int NOT NULL,
        start_offset bigint NOT NULL,
        emptied_below bigint NOT NULL DEFAULT 0,
        kept_from bigint NOT NULL DEFAULT 0,
        forgotten uuid,
        PRIMARY KEY (stream_id, partition)
    );

    -- Ids that were settled as absent are refused for ever. An append without rows has nothing in
    -- the log, so its id stands here.
    CREATE TABLE {schema}.ids (
        batch_id uuid PRIMARY KEY,
        refused boolean NOT NULL
    );

    -- Who consumes. Updated when the owner changes, and once in 1,024 generations.
    CREATE TABLE {schema}.leases (
        group_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream_id int NOT NULL,
        partition int NOT NULL,
        name text COLLATE "C" NOT NULL,
        owner uuid,
        epoch bigint NOT NULL DEFAULT 0,
        claimed_at timestamptz,
        trimmed_below bigint NOT NULL DEFAULT 0,
        CONSTRAINT leases_name UNIQUE (stream_id, partition, name)
    ) WITH (fillfactor = 50);

    -- What is done: a ledger. Each write of an owner is a new generation; the newest row counts.
    CREATE TABLE {schema}.positions (
        group_id bigint NOT NULL,
        generation bigint NOT NULL,
        position bigint NOT NULL,
        acked int8multirange NOT NULL DEFAULT '{}',
        attempted bigint[] NOT NULL DEFAULT '{}',
        attempts int[] NOT NULL DEFAULT '{}',
        written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (group_id, generation)
    );

    -- Every look of a function is by index, for a few rows. Plans are made once a session and say so
    -- whatever the statistics say then: the planner would plan anew for each call, since it takes an
    -- array of unknown length for ten rows, or read a whole table that was small.

    -- What each function that writes begins with: durable whatever the role or the pool says, and
    -- no wait without an end.
    CREATE FUNCTION {schema}.begin_write() RETURNS void LANGUAGE plpgsql AS $function$
    BEGIN
        IF current_setting('synchronous_commit') = 'off' THEN
            PERFORM set_config('synchronous_commit', 'on', true);
        END IF;
        IF current_setting('lock_timeout') = '0' THEN
            PERFORM set_config('lock_timeout', '10s', true);
        END IF;
    END
    $function$;

    CREATE FUNCTION {schema}.create_stream(stream text, wanted int) RETURNS int
    LANGUAGE plpgsql AS $function$
    DECLARE
        id int;
        present int;
    BEGIN
        SELECT s.partitions INTO present FROM {schema}.streams s WHERE s.name = stream;
        IF present IS NOT NULL OR wanted IS NULL THEN
            RETURN present;
        END IF;
        PERFORM {schema}.begin_write();
        -- Waits for another who makes the same.
        INSERT INTO {schema}.streams (name, partitions) VALUES (stream, wanted)
            ON CONFLICT (name) DO NOTHING RETURNING stream_id INTO id;
        IF id IS NULL THEN
            SELECT s.partitions INTO STRICT present FROM {schema}.streams s WHERE s.name = stream;
            RETURN present;
        END IF;
        INSERT INTO {schema}.partitions (stream_id, partition)
            SELECT id, n FROM generate_series(0, wanted - 1) n;
        RETURN wanted;
    END
    $function$;

    -- Where the log of a partition starts and ends.
    CREATE FUNCTION {schema}.bounds(stream int, part int)
    RETURNS TABLE (start_offset bigint, end_offset bigint) STABLE LANGUAGE sql BEGIN ATOMIC
        SELECT coalesce(
                (SELECT f.start_offset FROM {schema}.floors f
                 WHERE f.stream_id = stream AND f.partition = part), 0),
            coalesce(
                (SELECT b.base_offset + b.count FROM {schema}.batches b
                 WHERE b.stream_id = stream AND b.partition = part
                 ORDER BY b.base_offset DESC LIMIT 1), 0);
    END;

    -- How a group stands.
    CREATE FUNCTION {schema}.state(id bigint) RETURNS TABLE (
        owner uuid, epoch bigint, generation bigint, "position" bigint, acked text,
        attempted bigint[], attempts int[], start_offset bigint, end_offset bigint
    ) STABLE LANGUAGE sql BEGIN ATOMIC
        SELECT l.owner, l.epoch, p.generation, p.position, p.acked::text, p.attempted, p.attempts,
            b.start_offset, b.end_offset
        FROM {schema}.leases l
        CROSS JOIN LATERAL (
            SELECT * FROM {schema}.positions p
            WHERE p.group_id = l.group_id ORDER BY p.generation DESC LIMIT 1
        ) p
        CROSS JOIN LATERAL {schema}.bounds(l.stream_id, l.partition) b
        WHERE l.group_id = id;
    END;

    -- The next generation of a group: what was done before, and this. The caller holds the lock of
    -- the lease.
    CREATE FUNCTION {schema}.advance(
        id bigint, done int8multirange, OUT new_position bigint, OUT new_acked int8multirange
    ) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        last {schema}.positions;
        first int8range;
        tried bigint[];
        counts int[];
        cut bigint;
    BEGIN
        SELECT * INTO STRICT last FROM {schema}.positions p
            WHERE p.group_id = id ORDER BY p.generation DESC LIMIT 1;
        new_position := last.position;
        new_acked := last.acked + done + int8multirange(int8range(0, last.position));
        IF lower(new_acked) = 0 THEN
            SELECT r INTO first FROM unnest(new_acked) r LIMIT 1;
            new_position := upper(first);
            new_acked := new_acked - int8multirange(first);
        END IF;
        tried := last.attempted;
        counts := last.attempts;
        IF cardinality(tried) > 0 THEN
            SELECT coalesce(array_agg(a.at ORDER BY a.at), '{}'), coalesce(array_agg(a.n ORDER BY a.at), '{}')
                INTO tried, counts
                FROM unnest(last.attempted, last.attempts) a (at, n)
                WHERE a.at >= new_position AND NOT new_acked @> a.at;
        END IF;
        INSERT INTO {schema}.positions (group_id, generation, position, acked, attempted, attempts)
            VALUES (id, last.generation + 1, new_position, new_acked, tried, counts);
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

    -- Locks: the leases, then the partitions, each in one order for all. Then, with fresh snapshots:
    -- the id, the leases, the ends of the logs. Writes the commits, and says which rows to insert.
    --
    -- One answer a row: 'new' (insert it), 'known' (it is there). Or the whole is refused:
    -- 'refused', 'fenced' (by number of the commit), 'missing' and 'forgotten' (by number of the row).
    -- An append without rows answers 'new' or 'known' once.
    CREATE FUNCTION {schema}.begin_append(
        id uuid, streams text[], parts int[],
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
        PERFORM 1
            FROM unnest(streams, parts) u (stream, part)
            JOIN {schema}.streams s ON s.name = u.stream
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
            ORDER BY p.stream_id, p.partition FOR NO KEY UPDATE OF p;

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
        RETURN QUERY
            SELECT
                CASE
                    WHEN p.partition IS NULL THEN 'missing'
                    WHEN k.base_offset IS NOT NULL THEN 'known'
                    WHEN i.refused THEN 'refused'
                    WHEN o.batch_id IS NOT NULL THEN 'forgotten'
                    ELSE 'new'
                END,
                u.n::int, p.stream_id, p.partition,
                coalesce(k.base_offset, e.base_offset + e.count, 0),
                greatest(clock, e.appended_at)
            FROM unnest(streams, parts) WITH ORDINALITY u (stream, part, n)
            LEFT JOIN {schema}.ids i ON i.batch_id = id
            LEFT JOIN LATERAL (
                SELECT b.batch_id FROM {schema}.batches b WHERE b.batch_id = id LIMIT 1
            ) o ON true
            LEFT JOIN {schema}.streams s ON s.name = u.stream
            LEFT JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.part
            LEFT JOIN {schema}.batches k
                ON k.batch_id = id AND k.stream_id = p.stream_id AND k.partition = p.partition
            LEFT JOIN LATERAL (
                SELECT b.base_offset, b.count, b.appended_at FROM {schema}.batches b
                WHERE b.stream_id = p.stream_id AND b.partition = p.partition
                ORDER BY b.base_offset DESC LIMIT 1
            ) e ON true;
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
                ON b.batch_id = id AND b.stream_id = s.stream_id AND b.partition = u.part
            ORDER BY u.n;
        IF FOUND THEN
            RETURN;
        END IF;
        SELECT i.refused INTO mine FROM {schema}.ids i WHERE i.batch_id = id;
        IF mine IS NULL THEN
            IF EXISTS (
                SELECT FROM unnest(streams, parts) u (stream, part)
                JOIN {schema}.streams s ON s.name = u.stream
                JOIN {schema}.floors f ON f.stream_id = s.stream_id AND f.partition = u.part
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

    -- The last batch to read: from the one at `first` on, until so many bytes are reached.
    CREATE FUNCTION {schema}.read_until(stream int, part int, first bigint, bytes bigint) RETURNS bigint
    STABLE LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        b record;
        total bigint := 0;
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
            last := b.base_offset;
            EXIT WHEN total >= bytes;
        END LOOP;
        RETURN last;
    END
    $function$;

    -- The first batch of a partition that was appended at this time or later: times never go back
    -- within one, so the offsets are searched by halves.
    CREATE FUNCTION {schema}.appended_since(stream int, part int, moment timestamptz) RETURNS bigint
    STABLE LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        low bigint;
        high bigint;
        b record;
        answer bigint;
    BEGIN
        SELECT x.start_offset, x.end_offset INTO low, high FROM {schema}.bounds(stream, part) x;
        WHILE low < high LOOP
            SELECT base_offset, count, appended_at INTO b FROM {schema}.batches
                WHERE stream_id = stream AND partition = part AND base_offset <= (low + high) / 2
                ORDER BY base_offset DESC LIMIT 1;
            IF b.appended_at >= moment THEN
                answer := b.base_offset;
                high := b.base_offset;
            ELSE
                low := b.base_offset + b.count;
            END IF;
        END LOOP;
        RETURN answer;
    END
    $function$;

    -- False if there is no such partition. `place` is earliest, latest, offset or time.
    CREATE FUNCTION {schema}.create_group(
        stream text, part int, grp text, place text, at_offset bigint, at_time timestamptz
    ) RETURNS boolean LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        sid int;
        id bigint;
        log record;
    BEGIN
        SELECT p.stream_id INTO sid FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream;
        IF sid IS NULL THEN
            RETURN false;
        END IF;
        IF EXISTS (
            SELECT FROM {schema}.leases l WHERE l.stream_id = sid AND l.partition = part AND l.name = grp
        ) THEN
            RETURN true;
        END IF;
        PERFORM {schema}.begin_write();
        -- Waits for another who makes the same.
        INSERT INTO {schema}.leases (stream_id, partition, name) VALUES (sid, part, grp)
            ON CONFLICT ON CONSTRAINT leases_name DO NOTHING RETURNING group_id INTO id;
        IF id IS NULL THEN
            RETURN true;
        END IF;
        SELECT * INTO log FROM {schema}.bounds(sid, part);
        INSERT INTO {schema}.positions (group_id, generation, position) VALUES (id, 0, CASE place
            WHEN 'earliest' THEN log.start_offset
            WHEN 'latest' THEN log.end_offset
            WHEN 'offset' THEN at_offset
            ELSE coalesce({schema}.appended_since(sid, part, at_time), log.end_offset)
        END);
        RETURN true;
    END
    $function$;

    -- No row if there is no such group. Locks the lease.
    CREATE FUNCTION {schema}.claim(
        stream text, part int, grp text, claimer uuid, over_epoch bigint, over_generation bigint
    ) RETURNS TABLE (
        owner uuid, epoch bigint, generation bigint, "position" bigint, acked text,
        attempted bigint[], attempts int[], start_offset bigint, end_offset bigint
    ) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        lease {schema}.leases;
        last {schema}.positions;
        is_mine boolean;
        is_over boolean;
        log record;
        undone bigint;
        place int;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.* INTO lease FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream FOR NO KEY UPDATE OF l;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        SELECT * INTO STRICT last FROM {schema}.positions p
            WHERE p.group_id = lease.group_id ORDER BY p.generation DESC LIMIT 1;
        is_mine := coalesce(lease.owner = claimer, false);
        is_over := lease.owner IS NOT NULL AND NOT is_mine
            AND coalesce(over_epoch = lease.epoch AND over_generation = last.generation, false);
        IF is_over THEN
            -- The first message that is not done may be what the last owner died of.
            SELECT * INTO log FROM {schema}.bounds(lease.stream_id, lease.partition);
            SELECT lower(r) INTO undone FROM unnest(
                int8multirange(int8range(
                    greatest(log.start_offset, last.position),
                    greatest(log.end_offset, log.start_offset, last.position)))
                - last.acked) r LIMIT 1;
            IF undone IS NOT NULL THEN
                place := array_position(last.attempted, undone);
                IF place IS NULL THEN
                    last.attempted := last.attempted || undone;
                    last.attempts := last.attempts || 1;
                ELSE
                    last.attempts[place] := last.attempts[place] + 1;
                END IF;
            END IF;
        END IF;
        IF is_mine OR is_over OR lease.owner IS NULL THEN
            IF NOT is_mine THEN
                UPDATE {schema}.leases l
                    SET owner = claimer, epoch = lease.epoch + 1, claimed_at = clock_timestamp()
                    WHERE l.group_id = lease.group_id;
            END IF;
            INSERT INTO {schema}.positions (group_id, generation, position, acked, attempted, attempts)
                VALUES (lease.group_id, last.generation + 1, last.position, last.acked, last.attempted,
                    last.attempts);
        END IF;
        RETURN QUERY SELECT * FROM {schema}.state(lease.group_id);
    END
    $function$;

    -- No row if the lease is not this one. Locks the lease.
    CREATE FUNCTION {schema}.commit(
        stream text, part int, grp text, claimer uuid, at_epoch bigint, done text
    ) RETURNS TABLE ("position" bigint, acked text) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        id bigint;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.group_id INTO id FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream AND l.owner = claimer AND l.epoch = at_epoch
            FOR NO KEY UPDATE OF l;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        RETURN QUERY SELECT a.new_position, a.new_acked::text
            FROM {schema}.advance(id, done::int8multirange) a;
    END
    $function$;

    -- Whether the lease was this one. Locks the lease.
    CREATE FUNCTION {schema}.release(stream text, part int, grp text, claimer uuid, at_epoch bigint)
    RETURNS boolean LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        id bigint;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.group_id INTO id FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream AND l.owner = claimer AND l.epoch = at_epoch
            FOR NO KEY UPDATE OF l;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        UPDATE {schema}.leases l SET owner = NULL WHERE l.group_id = id;
        PERFORM {schema}.advance(id, '{}');
        RETURN true;
    END
    $function$;

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
        WITH old AS (
            SELECT b.base_offset, b.count FROM {schema}.batches b
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                AND b.base_offset >= floor.emptied_below AND b.base_offset < floor.start_offset
            ORDER BY b.base_offset LIMIT at_most
        ), now_empty AS (
            UPDATE {schema}.batches b
            SET ends = NULL, bodies = '', attribute_ends = NULL, attributes = NULL
            FROM old
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                AND b.base_offset = old.base_offset
        )
        SELECT count(*), max(old.base_offset + old.count) INTO emptied, last FROM old;
        SELECT b.base_offset INTO newest FROM {schema}.batches b
            WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
            ORDER BY b.base_offset DESC OFFSET 1024 LIMIT 1;
        WITH old AS MATERIALIZED (
            SELECT o.* FROM (
                SELECT b.base_offset, b.count, b.batch_id, b.appended_at FROM {schema}.batches b
                WHERE b.stream_id = floor.stream_id AND b.partition = floor.partition
                    AND b.base_offset >= floor.kept_from
                    AND b.base_offset < least(newest, coalesce(last, floor.emptied_below))
                ORDER BY b.base_offset LIMIT at_most
            ) o
            WHERE o.appended_at < clock_timestamp() - interval '1 hour'
        ), now_gone AS (
            DELETE FROM {schema}.batches b USING old
            WHERE newest IS NOT NULL AND b.stream_id = floor.stream_id
                AND b.partition = floor.partition AND b.base_offset = old.base_offset
        )
        SELECT count(*), max(old.base_offset + old.count), max(old.batch_id::text)::uuid
            INTO deleted, newest, gone FROM old WHERE newest IS NOT NULL;
        UPDATE {schema}.floors f
            SET emptied_below = coalesce(last, f.emptied_below),
                kept_from = coalesce(newest, f.kept_from),
                forgotten = greatest(f.forgotten, gone)
            WHERE f.stream_id = floor.stream_id AND f.partition = floor.partition
                AND (last IS NOT NULL OR newest IS NOT NULL);
        RETURN emptied = at_most OR deleted = at_most;
    END
    $function$;

    -- For people who read the log: text where it is some, hexadecimal digits where not.
    CREATE FUNCTION {schema}.readable(bytes bytea) RETURNS text
    IMMUTABLE STRICT LANGUAGE plpgsql AS $function$
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
    ) IMMUTABLE STRICT LANGUAGE plpgsql AS $function$
    DECLARE
        at int := 1;
        flags int;
        name int;
        value int;
    BEGIN
        IF octet_length(bytes) = 0 THEN
            RETURN;
        END IF;
        flags := get_byte(bytes, 0);
        IF flags & 2 <> 0 THEN
            stamp := timestamptz 'epoch' + {schema}.little_endian(bytes, at, 8) * interval '1 microsecond';
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

    -- The log, one row a message.
    CREATE VIEW {schema}.messages AS
        SELECT s.name AS stream, b.partition, b.base_offset + m.n - 1 AS "offset", b.appended_at,
            a.key, a.headers,
            {schema}.readable(substring(b.bodies FROM m.start + 1 FOR m.stop - m.start)) AS body,
            a.stamp AS "timestamp"
        FROM {schema}.batches b
        JOIN {schema}.streams s USING (stream_id)
        LEFT JOIN {schema}.floors f USING (stream_id, partition)
        CROSS JOIN LATERAL (
            SELECT u.n, lag(u.stop, 1, 0) OVER (ORDER BY u.n) AS start, u.stop,
                lag(u.a_stop, 1, 0) OVER (ORDER BY u.n) AS a_start, u.a_stop
            FROM unnest(b.ends, b.attribute_ends) WITH ORDINALITY u (stop, a_stop, n)
        ) m
        LEFT JOIN LATERAL {schema}.attributes(
            substring(b.attributes FROM m.a_start + 1 FOR m.a_stop - m.a_start)
        ) a ON true
        WHERE b.base_offset >= coalesce(f.start_offset, 0);

    COMMENT ON SCHEMA {schema} IS 'flowstream: streams inside this database';
    COMMENT ON VIEW {schema}.messages IS 'the log, one row a message';
END
$migrate$;
