    -- What transactions of the application append: one row a call and partition, in the columns of
    -- the log. Moved there once the transaction has committed.
    CREATE TABLE {schema}.outbox (
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        id bigint GENERATED ALWAYS AS IDENTITY,
        batch_id uuid NOT NULL,
        stream text COLLATE "C" NOT NULL,
        partition int NOT NULL,
        count int NOT NULL,
        ends bytea NOT NULL,
        bodies bytea NOT NULL,
        attribute_ends bytea,
        attributes bytea,
        PRIMARY KEY (xid, id)
    );
    ALTER TABLE {schema}.outbox
        ALTER COLUMN ends SET STORAGE EXTERNAL,
        ALTER COLUMN bodies SET STORAGE EXTERNAL,
        ALTER COLUMN attribute_ends SET STORAGE EXTERNAL,
        ALTER COLUMN attributes SET STORAGE EXTERNAL;

    -- Moves what committed transactions left, each as a whole, the older first: some of them, up to
    -- about so many rows or 16 MiB. Says where the logs end then, what it saw, and whether there may
    -- be more.
    --
    -- `seen` is what an earlier move saw: what was committed by then is moved, so the look begins
    -- with those who were under way then and goes on with who began later. That is only where to
    -- look; with all that was moved lately it would walk over dead index entries that an old snapshot
    -- keeps. If the server counts from less than that, it is not the one it was: the look is at all.
    --
    -- Locks the partitions in the order of appends, then reads the outbox again: what somebody else
    -- has moved meanwhile is gone. (In repeatable read it is not, and the delete fails with 40001.)
    -- Nothing is skipped, or a later move of somebody else could overtake.
    CREATE FUNCTION {schema}.move_outbox(seen text, at_most int) RETURNS TABLE (
        stream text, partition int, end_offset bigint, now_seen text, is_more boolean
    ) LANGUAGE plpgsql
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
    SET enable_hashjoin = off SET enable_mergejoin = off AS $function$
    DECLARE
        before pg_snapshot := seen::pg_snapshot;
        now_here pg_snapshot;
        since xid8 := '0';
        xids xid8[] := '{}';
        o record;
        found_rows int := 0;
        found_bytes bigint := 0;
    BEGIN
        PERFORM {schema}.begin_write();
        -- Taken before the looks, which see all that it shows as committed.
        now_here := pg_current_snapshot();
        IF pg_snapshot_xmax(now_here) >= pg_snapshot_xmax(before) THEN
            since := pg_snapshot_xmax(before);
            SELECT coalesce(array_agg(DISTINCT x.xid), '{}') INTO xids
                FROM pg_snapshot_xip(before) u (xid) JOIN {schema}.outbox x ON x.xid = u.xid;
        END IF;
        is_more := false;
        FOR o IN
            SELECT x.xid, octet_length(x.bodies) + coalesce(octet_length(x.attributes), 0) AS size
            FROM {schema}.outbox x WHERE x.xid >= since ORDER BY x.xid, x.id
        LOOP
            IF o.xid = ANY (xids[cardinality(xids):]) THEN
                NULL;
            ELSIF found_rows >= at_most OR found_bytes >= 16777216 THEN
                is_more := true;
                EXIT;
            ELSE
                xids := xids || o.xid;
            END IF;
            found_rows := found_rows + 1;
            found_bytes := found_bytes + o.size;
        END LOOP;
        now_seen := CASE WHEN is_more THEN seen ELSE now_here::text END;
        IF cardinality(xids) = 0 THEN
            RETURN NEXT;
            RETURN;
        END IF;
        PERFORM 1
            FROM (
                SELECT DISTINCT x.stream, x.partition
                FROM unnest(xids) u (xid) JOIN {schema}.outbox x ON x.xid = u.xid
            ) u
            JOIN {schema}.streams s ON s.name = u.stream
            JOIN {schema}.partitions p ON p.stream_id = s.stream_id AND p.partition = u.partition
            ORDER BY p.stream_id, p.partition FOR NO KEY UPDATE OF p;
        RETURN QUERY
            WITH moved AS (
                DELETE FROM {schema}.outbox x USING unnest(xids) u (xid)
                WHERE x.xid = u.xid
                RETURNING x.*
            ), placed AS (
                SELECT m.*, s.stream_id, greatest(clock_timestamp(), e.appended_at) AS appended_at,
                    coalesce(e.base_offset + e.count, 0) - m.count + sum(m.count) OVER (
                        PARTITION BY s.stream_id, m.partition ORDER BY m.xid, m.id
                    ) AS base_offset
                FROM moved m
                JOIN {schema}.streams s ON s.name = m.stream
                LEFT JOIN LATERAL (
                    SELECT b.base_offset, b.count, b.appended_at FROM {schema}.batches b
                    WHERE b.stream_id = s.stream_id AND b.partition = m.partition
                    ORDER BY b.base_offset DESC LIMIT 1
                ) e ON true
            ), written AS (
                INSERT INTO {schema}.batches AS b (
                    stream_id, partition, base_offset, count, appended_at, batch_id,
                    ends, bodies, attribute_ends, attributes
                )
                SELECT p.stream_id, p.partition, p.base_offset, p.count, max(p.appended_at) OVER (
                        PARTITION BY p.stream_id, p.partition ORDER BY p.xid, p.id
                    ), p.batch_id,
                    p.ends, p.bodies, p.attribute_ends, p.attributes
                FROM placed p
                RETURNING b.stream_id, b.partition, b.base_offset + b.count AS end_offset
            )
            SELECT s.name, w.partition, max(w.end_offset), now_seen, is_more
            FROM written w JOIN {schema}.streams s ON s.stream_id = w.stream_id
            GROUP BY s.name, w.partition;
        IF NOT FOUND THEN
            RETURN NEXT;
        END IF;
    END
    $function$;

