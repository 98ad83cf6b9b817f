    -- Where a group begins. `place` is earliest, latest, offset or time.
    CREATE FUNCTION {schema}.position_at(
        stream int, part int, place text, at_offset bigint, at_time timestamptz
    ) RETURNS bigint STABLE LANGUAGE sql BEGIN ATOMIC
        SELECT CASE place
            WHEN 'earliest' THEN b.start_offset
            WHEN 'latest' THEN b.end_offset
            WHEN 'offset' THEN at_offset
            ELSE coalesce({schema}.appended_since(stream, part, at_time), b.end_offset)
        END
        FROM {schema}.bounds(stream, part) b;
    END;

    -- False if there is no such partition.
    CREATE FUNCTION {schema}.create_group(
        stream text, part int, grp text, place text, at_offset bigint, at_time timestamptz
    ) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        sid int;
        id bigint;
    BEGIN
        SELECT p.stream_id INTO sid FROM {schema}.streams s
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = part
            WHERE s.name = stream;
        IF sid IS NULL THEN
            RETURN false;
        END IF;
        PERFORM {schema}.begin_write();
        -- Waits for another who makes the same. Where the number is taken (the sequence is behind its
        -- table after an upgrade by logical replication), the next one may not be.
        LOOP
            IF EXISTS (
                SELECT FROM {schema}.leases l
                WHERE l.stream_id = sid AND l.partition = part AND l.name = grp
            ) THEN
                RETURN true;
            END IF;
            INSERT INTO {schema}.leases (stream_id, partition, name) VALUES (sid, part, grp)
                ON CONFLICT DO NOTHING RETURNING group_id INTO id;
            EXIT WHEN id IS NOT NULL;
        END LOOP;
        INSERT INTO {schema}.positions (group_id, generation, position)
            VALUES (id, 0, {schema}.position_at(sid, part, place, at_offset, at_time));
        RETURN true;
    END
    $function$;

    -- No row if there is no such group. Locks out the acks of transactions, then the lease.
    CREATE FUNCTION {schema}.claim(
        stream text, part int, grp text, claimer uuid, process uuid,
        over_epoch bigint, over_generation bigint, counts_attempt boolean
    ) RETURNS TABLE (
        owner uuid, epoch bigint, generation bigint, "position" bigint, acked text,
        attempted bigint[], attempts int[], start_offset bigint, end_offset bigint,
        incarnation bigint, is_alive boolean, member uuid
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        lease {schema}.leases;
        last {schema}.positions;
        is_mine boolean;
        is_over boolean;
        now_here bigint := {schema}.incarnation();
        log record;
        undone bigint;
        place int;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.* INTO lease FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        -- In this order: what commits before the lock is merged, what comes after it is fenced.
        PERFORM pg_advisory_xact_lock({schema}.ack_lock_key(lease.group_id));
        SELECT l.* INTO STRICT lease FROM {schema}.leases l
            WHERE l.group_id = lease.group_id FOR NO KEY UPDATE;
        SELECT * INTO STRICT last FROM {schema}.positions p
            WHERE p.group_id = lease.group_id ORDER BY p.generation DESC LIMIT 1;
        SELECT f.position, f.acked INTO last.position, last.acked
            FROM {schema}.merge_acks(lease.group_id, last.position, last.acked) f;
        -- A lease of its own from before a failover is as good as another's that is dead.
        is_mine := coalesce(lease.owner = claimer AND lease.incarnation = now_here, false);
        is_over := lease.owner IS NOT NULL AND NOT is_mine
            AND (lease.owner = claimer
                OR coalesce(over_epoch = lease.epoch AND over_generation = last.generation, false));
        IF is_over AND counts_attempt THEN
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
                    SET owner = claimer, epoch = lease.epoch + 1, claimed_at = clock_timestamp(),
                        incarnation = now_here, member = process
                    WHERE l.group_id = lease.group_id;
            END IF;
            INSERT INTO {schema}.positions (group_id, generation, position, acked, attempted, attempts)
                VALUES (lease.group_id, last.generation + 1, last.position, last.acked, last.attempted,
                    last.attempts);
        END IF;
        RETURN QUERY SELECT * FROM {schema}.state(lease.group_id);
    END
    $function$;

    -- NULL if the lease is not this one. Locks the lease. Says where the acked ranges begin, and then where
    -- they end: as text a thousand would take 2 ms.
    CREATE FUNCTION {schema}.commit(
        stream text, part int, grp text, claimer uuid, at_epoch bigint,
        done text, attempted bigint[], attempts int[],
        OUT "position" bigint, OUT acked bigint[]
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        now_here bigint := {schema}.incarnation();
        id bigint;
        next record;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.group_id INTO id FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream AND l.owner = claimer AND l.epoch = at_epoch
                AND l.incarnation = now_here
            FOR NO KEY UPDATE OF l;
        IF FOUND THEN
            -- An expression: a query would be set up each time.
            next := {schema}.advance(id, done::int8multirange, attempted, attempts);
            "position" := next.new_position;
            IF NOT isempty(next.new_acked) THEN
                SELECT array_agg(lower(a.range)) || array_agg(upper(a.range)) INTO acked
                    FROM (SELECT unnest(next.new_acked) AS range) a;
            END IF;
        END IF;
    END
    $function$;

    -- Whether the lease was this one. Locks the lease.
    CREATE FUNCTION {schema}.release(stream text, part int, grp text, claimer uuid, at_epoch bigint)
    RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        now_here bigint := {schema}.incarnation();
        id bigint;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.group_id INTO id FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream AND l.owner = claimer AND l.epoch = at_epoch
                AND l.incarnation = now_here
            FOR NO KEY UPDATE OF l;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        UPDATE {schema}.leases l SET owner = NULL WHERE l.group_id = id;
        PERFORM {schema}.advance(id, '{}');
        RETURN true;
    END
    $function$;

    -- Takes the lease away, and moves the position unless `place` is NULL. No row if there is no such
    -- group; `done` is false if it has an owner who is not seen dead, and that is not to be forced.
    -- Locks out the acks of transactions, then the lease.
    CREATE FUNCTION {schema}.reset(
        stream text, part int, grp text,
        place text, at_offset bigint, at_time timestamptz, forced boolean
    ) RETURNS TABLE (
        done boolean,
        owner uuid, epoch bigint, generation bigint, "position" bigint, acked text,
        attempted bigint[], attempts int[], start_offset bigint, end_offset bigint,
        incarnation bigint, is_alive boolean, member uuid
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        lease {schema}.leases;
        is_done boolean;
    BEGIN
        PERFORM {schema}.begin_write();
        SELECT l.* INTO lease FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream;
        IF NOT FOUND THEN
            RETURN;
        END IF;
        PERFORM pg_advisory_xact_lock({schema}.ack_lock_key(lease.group_id));
        SELECT l.* INTO STRICT lease FROM {schema}.leases l
            WHERE l.group_id = lease.group_id FOR NO KEY UPDATE;
        is_done := forced OR lease.owner IS NULL
            OR NOT coalesce({schema}.is_alive(lease.member, lease.incarnation, lease.claimed_at), true);
        IF is_done THEN
            UPDATE {schema}.leases l SET owner = NULL, epoch = lease.epoch + 1, member = NULL
                WHERE l.group_id = lease.group_id;
            IF place IS NULL THEN
                PERFORM {schema}.advance(lease.group_id, '{}');
            ELSE
                -- What they say is done is not, from here on. The delete lacks what committed just before
                -- the lock, where the snapshot is older: the epoch tells.
                DELETE FROM {schema}.acks a WHERE a.group_id = lease.group_id;
                UPDATE {schema}.leases l SET acks_from = 0, acks_since = lease.epoch + 1
                    WHERE l.group_id = lease.group_id;
                INSERT INTO {schema}.positions (group_id, generation, position)
                    SELECT p.group_id, p.generation + 1, {schema}.position_at(
                        lease.stream_id, lease.partition, place, at_offset, at_time)
                    FROM {schema}.positions p
                    WHERE p.group_id = lease.group_id ORDER BY p.generation DESC LIMIT 1;
            END IF;
        END IF;
        RETURN QUERY SELECT is_done, t.* FROM {schema}.state(lease.group_id) t;
    END
    $function$;

