    -- With lz4, where the server was built with it: what can be compressed is written and read faster, and
    -- the attempt costs little where nothing can. Its own pglz takes longer than it saves.
    IF EXISTS (
        SELECT FROM pg_settings s
        WHERE s.name = 'default_toast_compression' AND 'lz4' = ANY (s.enumvals)
    ) THEN
        ALTER TABLE {schema}.batches
            ALTER COLUMN bodies SET STORAGE EXTENDED,
            ALTER COLUMN bodies SET COMPRESSION lz4,
            ALTER COLUMN attributes SET STORAGE EXTENDED,
            ALTER COLUMN attributes SET COMPRESSION lz4;
        ALTER TABLE {schema}.positions
            ALTER COLUMN acked SET STORAGE EXTENDED,
            ALTER COLUMN acked SET COMPRESSION lz4;
        ALTER TABLE {schema}.outbox
            ALTER COLUMN bodies SET STORAGE EXTENDED,
            ALTER COLUMN bodies SET COMPRESSION lz4,
            ALTER COLUMN attributes SET STORAGE EXTENDED,
            ALTER COLUMN attributes SET COMPRESSION lz4;
    END IF;

