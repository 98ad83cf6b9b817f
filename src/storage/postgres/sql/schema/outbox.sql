    -- What transactions of the application append: one row a call and partition, in the columns of
    -- the log. Moved there once the transaction has committed.
    --
    -- `id` is one number a call, given when it is made, and never in advance (the sequence caches
    -- nothing): whoever has waited for a lock of the application, or for a commit, has a greater one
    -- than whoever it waited for.
    CREATE TABLE {schema}.outbox (
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        id bigint GENERATED ALWAYS AS IDENTITY (CACHE 1),
        number int NOT NULL DEFAULT 1,
        batch_id uuid NOT NULL,
        stream text COLLATE "C" NOT NULL,
        partition int NOT NULL,
        count int NOT NULL,
        ends bytea NOT NULL,
        bodies bytea NOT NULL,
        attribute_ends bytea,
        attributes bytea,
        PRIMARY KEY (xid, id, number)
    ) USING heap;
    -- In the order in which they are moved.
    CREATE INDEX outbox_order ON {schema}.outbox (id, number);
    ALTER TABLE {schema}.outbox
        ALTER COLUMN ends SET STORAGE EXTERNAL,
        ALTER COLUMN bodies SET STORAGE EXTERNAL,
        ALTER COLUMN attribute_ends SET STORAGE EXTERNAL,
        ALTER COLUMN attributes SET STORAGE EXTERNAL;

    -- Where a move looks: see below.
    CREATE TYPE {schema}.look AS (
        place text,
        -- What an earlier look saw, NULL for none, and the greatest number of what was moved by then.
        before pg_snapshot,
        looked_to bigint,
        -- What this one sees, and how far it is.
        now_here pg_snapshot,
        moved_to bigint
    );

    -- A new look, or the one that `seen` is in the middle of.
    CREATE FUNCTION {schema}.begin_look(seen text) RETURNS {schema}.look
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_bitmapscan = off AS $function$
    DECLARE
        parts text[] := string_to_array(seen, ' ');
        look {schema}.look;
        since xid8;
    BEGIN
        look.place := {schema}.incarnation() || '/' || extract(epoch FROM pg_postmaster_start_time());
        -- Taken before the rows are looked at.
        look.now_here := pg_current_snapshot();
        look.looked_to := 0;
        IF parts[1] = look.place
            AND pg_snapshot_xmax(look.now_here) >= pg_snapshot_xmax(coalesce(parts[4], parts[2])::pg_snapshot)
        THEN
            look.before := nullif(parts[2], '-')::pg_snapshot;
            look.looked_to := coalesce(parts[3]::bigint, 0);
            look.now_here := coalesce(parts[4]::pg_snapshot, look.now_here);
            look.moved_to := parts[5]::bigint;
        END IF;
        IF look.moved_to IS NULL AND look.before IS NOT NULL THEN
            since := pg_snapshot_xmax(look.before);
            -- Where the sequence is behind its table (an upgrade by logical replication), those who began
            -- later got lower numbers: then by number no look is shorter.
            IF (SELECT x.id FROM {schema}.outbox x WHERE x.xid >= since
                    ORDER BY x.xid, x.id LIMIT 1) <= look.looked_to
                OR (SELECT x.id FROM {schema}.outbox x WHERE x.xid >= since
                    ORDER BY x.xid DESC, x.id DESC LIMIT 1) <= look.looked_to
            THEN
                look.looked_to := 0;
            END IF;
        END IF;
        look.moved_to := coalesce(look.moved_to, 0);
        RETURN look;
    END
    $function$;

    -- What the next move is to know.
    CREATE FUNCTION {schema}.end_look(look {schema}.look, is_more boolean) RETURNS text
    STABLE LANGUAGE sql RETURN CASE WHEN is_more
        THEN concat_ws(' ', look.place, coalesce(look.before::text, '-'), look.looked_to,
            look.now_here::text, look.moved_to)
        ELSE concat_ws(' ', look.place, look.now_here::text, greatest(look.looked_to, look.moved_to))
    END;

    -- The first rows that a look has still to move, so many.
    CREATE FUNCTION {schema}.waiting(look {schema}.look, at_most int)
    RETURNS TABLE (xid xid8, id bigint, size bigint) STABLE
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} SET enable_bitmapscan = off AS $function$
    BEGIN
        -- Those with lower numbers, which were under way.
        IF look.moved_to < look.looked_to THEN
            RETURN QUERY
                SELECT x.xid, x.id, x.size
                FROM pg_snapshot_xip(look.before) u (xid)
                CROSS JOIN LATERAL (
                    SELECT x.xid, x.id, x.number,
                        (octet_length(x.bodies) + coalesce(octet_length(x.attributes), 0))::bigint AS size
                    FROM {schema}.outbox x
                    WHERE x.xid = u.xid AND x.id > look.moved_to AND x.id <= look.looked_to
                        AND pg_visible_in_snapshot(x.xid, look.now_here)
                    ORDER BY x.xid, x.id, x.number LIMIT at_most
                ) x
                ORDER BY x.id, x.number LIMIT at_most;
        END IF;
        RETURN QUERY
            SELECT x.xid, x.id, (octet_length(x.bodies) + coalesce(octet_length(x.attributes), 0))::bigint
            FROM {schema}.outbox x
            WHERE x.id > greatest(look.looked_to, look.moved_to)
                AND pg_visible_in_snapshot(x.xid, look.now_here)
                AND (look.before IS NULL OR NOT pg_visible_in_snapshot(x.xid, look.before))
            ORDER BY x.id, x.number LIMIT at_most;
    END
    $function$;

    -- Moves a piece of what committed transactions left, each call as a whole, in the order of the calls:
    -- at most so many rows, and no call more once they would be more bytes than that; one call at
    -- least. Says where the logs end then, where the next piece begins, and whether there may be one.
    --
    -- Nothing overtakes: whoever waited for a commit before it appended is seen with what it waited
    -- for, and in one look the lower number goes first. A look is at what one snapshot shows, and may take
    -- many pieces; what commits meanwhile is for the next look, whatever its number.
    --
    -- `seen` is on which server an earlier look was and since when that runs, its snapshot, and the greatest
    -- number that it moved; within a look also that of the look, and how far it is. What had committed by
    -- then is moved, so the look is at those who were under way then, by their transactions, and at greater
    -- numbers: who began later got one. That is only where to look; with all that was moved lately it
    -- would walk over dead index entries that an old snapshot keeps. On another server, after a restart
    -- (its files may have been put back), and if this one counts from less than that, the look is at all.
    --
    -- Locks the partitions in the order of appends, then reads the outbox again: what somebody else
    -- has moved meanwhile is gone. (In repeatable read it is not, and the delete fails with 40001.)
    -- Nothing is skipped, or a later move of somebody else could overtake. What goes to a partition that
    -- is not there (a failover may have lost it) stays until a look at all finds it.
    CREATE FUNCTION {schema}.move_outbox(
        seen text, at_most int, bytes bigint DEFAULT 16777216
    ) RETURNS TABLE (
        stream text, partition int, end_offset bigint, now_seen text, is_more boolean
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} SET enable_bitmapscan = off AS $function$
    DECLARE
        look {schema}.look := {schema}.begin_look(seen);
        xids xid8[] := '{}';
        ids bigint[] := '{}';
        o record;
        call_rows int := 0;
        call_bytes bigint := 0;
        found_rows int := 0;
        found_bytes bigint := 0;
    BEGIN
        PERFORM {schema}.begin_write();
        is_more := false;
        FOR o IN SELECT x.* FROM {schema}.waiting(look, at_most + 1) x LOOP
            IF o.id IS DISTINCT FROM ids[cardinality(ids)] THEN
                found_rows := found_rows + call_rows;
                found_bytes := found_bytes + call_bytes;
                call_rows := 0;
                call_bytes := 0;
                xids := xids || o.xid;
                ids := ids || o.id;
            END IF;
            call_rows := call_rows + 1;
            call_bytes := call_bytes + o.size;
            is_more := found_rows + call_rows > at_most OR found_bytes + call_bytes > bytes;
            EXIT WHEN is_more AND found_rows > 0;
        END LOOP;
        -- The call that is too much, if it is not the first.
        IF is_more AND found_rows > 0 THEN
            xids := trim_array(xids, 1);
            ids := trim_array(ids, 1);
        END IF;
        look.moved_to := greatest(look.moved_to, ids[cardinality(ids)]);
        now_seen := {schema}.end_look(look, is_more);
        IF cardinality(ids) = 0 THEN
            RETURN NEXT;
            RETURN;
        END IF;
        PERFORM {schema}.lock_partitions(array_agg(u.stream), array_agg(u.partition))
            FROM (
                SELECT DISTINCT x.stream, x.partition
                FROM unnest(xids, ids) u (xid, id)
                JOIN {schema}.outbox x ON x.xid = u.xid AND x.id = u.id
            ) u;
        RETURN QUERY
            WITH moved AS (
                DELETE FROM {schema}.outbox x USING unnest(xids, ids) u (xid, id), {schema}.streams s
                WHERE x.xid = u.xid AND x.id = u.id AND s.name = x.stream
                    AND EXISTS (
                        SELECT FROM {schema}.partitions p
                        WHERE p.stream_id = s.stream_id AND p.partition = x.partition OFFSET 0
                    )
                RETURNING x.*, s.stream_id
            ), placed AS (
                SELECT m.*, greatest(clock_timestamp(), e.appended_at) AS appended_at,
                    coalesce(e.base_offset + e.count, 0) - m.count + sum(m.count) OVER (
                        PARTITION BY m.stream_id, m.partition ORDER BY m.id, m.number
                    ) AS base_offset
                FROM moved m
                LEFT JOIN LATERAL (
                    SELECT b.base_offset, b.count, b.appended_at FROM {schema}.batches b
                    WHERE b.stream_id = m.stream_id AND b.partition = m.partition
                    ORDER BY b.base_offset DESC LIMIT 1
                ) e ON true
            ), written AS (
                INSERT INTO {schema}.batches AS b (
                    stream_id, partition, base_offset, count, appended_at, batch_id,
                    ends, bodies, attribute_ends, attributes
                )
                SELECT p.stream_id, p.partition, p.base_offset, p.count, max(p.appended_at) OVER (
                        PARTITION BY p.stream_id, p.partition ORDER BY p.id, p.number
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

