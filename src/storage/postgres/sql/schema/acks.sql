    -- Done, says a transaction of the application: committed or rolled back with what else it wrote.
    -- A row stays after the ledger says the same, so that its key keeps another transaction of the
    -- same epoch from doing the same message; `drop_acks` takes it away.
    CREATE TABLE {schema}.acks (
        group_id bigint NOT NULL,
        "offset" bigint NOT NULL,
        epoch bigint NOT NULL,
        owner uuid NOT NULL,
        xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        PRIMARY KEY (group_id, "offset", epoch)
    ) USING heap;

    -- The id of the transaction, which begins to write with this. Fails in another database, and on
    -- another server.
    CREATE FUNCTION {schema}.begin_in(place text) RETURNS xid8
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
    BEGIN
        IF place IS DISTINCT FROM {schema}.incarnation()::text THEN
            RAISE EXCEPTION 'the transaction is not in the database of the storage' USING ERRCODE = 'ZF003';
        END IF;
        RETURN pg_current_xact_id();
    END
    $function$;

    -- What those who commit an ack share, and who takes the lease over has alone.
    CREATE FUNCTION {schema}.ack_lock_key(id bigint) RETURNS bigint IMMUTABLE LANGUAGE sql
        RETURN hashtextextended('{schema}.acks', 7215846520348) # id;

    -- One message is done, if this transaction commits. The row is written in any case: one that may
    -- not be keeps the transaction from committing, also where nobody heeds the answer 'fenced', or
    -- 'taken' (another transaction has done it). Waits for another transaction that is about to do
    -- the same. Locks nothing that others need.
    CREATE FUNCTION {schema}.commit_in(
        place text, stream text, part int, grp text, claimer uuid, at_epoch bigint, at_offset bigint,
        OUT outcome text, OUT transaction text
    ) LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        me xid8 := {schema}.begin_in(place);
        lease {schema}.leases;
    BEGIN
        transaction := me::text;
        outcome := 'done';
        SELECT l.* INTO lease FROM {schema}.streams s
            JOIN {schema}.leases l ON l.stream_id = s.stream_id AND l.partition = part AND l.name = grp
            WHERE s.name = stream;
        IF NOT FOUND THEN
            -- Made after the snapshot of this transaction.
            RAISE EXCEPTION 'the group is newer than this transaction' USING ERRCODE = 'serialization_failure';
        END IF;
        IF lease.owner IS DISTINCT FROM claimer OR lease.epoch <> at_epoch
            OR lease.incarnation IS DISTINCT FROM {schema}.incarnation()
        THEN
            outcome := 'fenced';
        END IF;
        INSERT INTO {schema}.acks (group_id, "offset", epoch, owner)
            VALUES (lease.group_id, at_offset, at_epoch, claimer) ON CONFLICT DO NOTHING;
        IF NOT FOUND AND NOT EXISTS (
            SELECT FROM {schema}.acks a
            WHERE a.group_id = lease.group_id AND a."offset" = at_offset AND a.epoch = at_epoch
                AND a.xid = me
        ) THEN
            outcome := 'taken';
            -- An epoch that never is.
            INSERT INTO {schema}.acks (group_id, "offset", epoch, owner)
                VALUES (lease.group_id, at_offset, -(me::text::bigint), claimer) ON CONFLICT DO NOTHING;
        END IF;
    END
    $function$;

    -- At COMMIT: an ack of a lease that was lost, or of a message that is done, does not pass.
    --
    -- Locks until the commit is over, against a takeover. In read committed that is an advisory lock,
    -- shared, which leaves no trace in the rows; the looks that follow see the latest. In the
    -- stricter levels the snapshot may be older than a takeover: there it is the row of the lease,
    -- which cannot be locked if it was updated since (40001).
    CREATE FUNCTION {schema}.check_ack() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        lease {schema}.leases;
        last {schema}.positions;
    BEGIN
        IF current_setting('transaction_isolation') IN ('read committed', 'read uncommitted') THEN
            PERFORM pg_advisory_xact_lock_shared({schema}.ack_lock_key(NEW.group_id));
            SELECT l.* INTO STRICT lease FROM {schema}.leases l WHERE l.group_id = NEW.group_id;
        ELSE
            SELECT l.* INTO STRICT lease FROM {schema}.leases l WHERE l.group_id = NEW.group_id FOR SHARE;
        END IF;
        SELECT p.* INTO STRICT last FROM {schema}.positions p
            WHERE p.group_id = NEW.group_id ORDER BY p.generation DESC LIMIT 1;
        IF NEW.epoch >= 0 AND (
            lease.owner IS DISTINCT FROM NEW.owner OR lease.epoch <> NEW.epoch
                OR lease.incarnation IS DISTINCT FROM {schema}.incarnation()
        ) THEN
            RAISE EXCEPTION 'the lease with epoch % was taken over or given back', NEW.epoch
                USING ERRCODE = 'ZF001';
        END IF;
        IF NEW.epoch < 0 OR NEW."offset" < last.position OR last.acked @> NEW."offset" THEN
            RAISE EXCEPTION 'the message at offset % is done already', NEW."offset" USING ERRCODE = 'ZF002';
        END IF;
        RETURN NULL;
    END
    $function$;

    -- Whatever the session says of itself (session_replication_role switches ordinary triggers off).
    -- But what is copied from another server was decided there, under the leases that it has: a row
    -- that is not of the transaction that inserts it.
    CREATE CONSTRAINT TRIGGER fence AFTER INSERT ON {schema}.acks DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.xid = pg_current_xact_id()) EXECUTE FUNCTION {schema}.check_ack();
    ALTER TABLE {schema}.acks ENABLE ALWAYS TRIGGER fence;

    -- What is done, with what transactions of the application committed and the ledger does not say
    -- yet. By offset, from the position up, only where something is missing: a number that is given
    -- at the insert would pass over transactions that commit late. What was done before
    -- the group was sent to another place does not count: those rows are deleted then, but for any that
    -- a snapshot older than the lock did not show.
    CREATE FUNCTION {schema}.merge_acks(
        id bigint, at_position bigint, at_acked int8multirange,
        OUT "position" bigint, OUT acked int8multirange
    ) STABLE LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        since bigint;
        more int8multirange;
    BEGIN
        "position" := at_position;
        acked := at_acked;
        IF NOT EXISTS (
            SELECT FROM {schema}.acks a WHERE a.group_id = id AND a."offset" >= at_position
        ) THEN
            RETURN;
        END IF;
        SELECT l.acks_since INTO since FROM {schema}.leases l WHERE l.group_id = id;
        SELECT range_agg(int8range(a."offset", a."offset" + 1)) INTO more
            FROM unnest(int8multirange(int8range(at_position, 9223372036854775807)) - at_acked) gap
            CROSS JOIN LATERAL (
                -- Fenced off, or the planner may walk all acks of the group.
                SELECT * FROM {schema}.acks a
                WHERE a.group_id = id AND a."offset" >= lower(gap) AND a."offset" < upper(gap)
                    AND a.epoch >= since
                OFFSET 0
            ) a;
        IF more IS NOT NULL THEN
            acked := at_acked + more;
            IF lower(acked) = at_position THEN
                SELECT upper(r) INTO "position" FROM unnest(acked) r LIMIT 1;
                acked := acked - int8multirange(int8range(at_position, "position"));
            END IF;
        END IF;
    END
    $function$;

    -- Deletes acks below the position, once it is so much further, those of so many offsets at a time. The
    -- range begins where the last one ended: no dead index entry is walked. The update makes those transactions fail whose
    -- snapshot is older (repeatable read): the keys that stood in their way are gone. The caller
    -- holds the lock of the lease.
    CREATE FUNCTION {schema}.drop_acks(id bigint, before bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    {by_index} AS $function$
    DECLARE
        low bigint;
        high bigint;
    BEGIN
        SELECT l.acks_from INTO low FROM {schema}.leases l WHERE l.group_id = id;
        IF before - low < 16384 THEN
            RETURN;
        END IF;
        SELECT least(before, a."offset" + 16384) INTO high FROM {schema}.acks a
            WHERE a.group_id = id AND a."offset" >= low ORDER BY a."offset" LIMIT 1;
        high := coalesce(high, before);
        DELETE FROM {schema}.acks a WHERE a.group_id = id AND a."offset" >= low AND a."offset" < high;
        UPDATE {schema}.leases l SET acks_from = high WHERE l.group_id = id;
    END
    $function$;

