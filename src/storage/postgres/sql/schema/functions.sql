    -- Every look of a function is by index, for a few rows. Plans are made once a session and say so
    -- whatever the statistics say then: the planner would plan anew for each call, since it takes an
    -- array of unknown length for ten rows, or read a whole table that was small.
    --
    -- Every name is looked up in what is built in, and found there: whoever calls may have a search path
    -- on which somebody put something else first. So each function that is planned when it runs says where
    -- to look, but for two that only others call, which have said it: to set and set back a search path
    -- takes about two microseconds a call.

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

