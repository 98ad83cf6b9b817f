-- The schema of flowstream, version {version}.
--
-- Made or brought up to date when a storage is opened, or by hand where the application has no right
-- to do it. Running it again changes nothing. One statement: it is done as a whole or not at all,
-- and of those that run it at once, one does it (the advisory lock) and the others find it done.
DO $migrate$
DECLARE
    found int;
    -- As it was: others may go on in this transaction.
    path pg_catalog.text := pg_catalog.current_setting('search_path');
BEGIN
    -- What is built in is found before anything that somebody put in its place.
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    PERFORM pg_advisory_xact_lock(hashtextextended('{schema}', 7215846520348));
    IF to_regclass('{schema}.version') IS NOT NULL THEN
        SELECT v.version INTO found FROM {schema}.version v;
        IF found IS NULL THEN
            -- A snapshot from before the lock (repeatable read): a fresh statement sees it.
            RAISE EXCEPTION 'the schema was made meanwhile' USING ERRCODE = 'serialization_failure';
        END IF;
    END IF;
    found := coalesce(found, 0);
    IF found >= {version} THEN
        PERFORM set_config('search_path', path, true);
        RETURN;
    END IF;

    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
    IF to_regclass('{schema}.version') IS NULL THEN
        -- With a key, as all tables: what a publication has cannot be updated otherwise.
        CREATE TABLE {schema}.version (version int PRIMARY KEY) USING heap;
        INSERT INTO {schema}.version VALUES (0);
    END IF;

