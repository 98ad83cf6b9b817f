    CREATE TABLE {schema}.streams (
        stream_id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE "C" NOT NULL UNIQUE,
        partitions int NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp()
    ) USING heap;

    -- The lock of each partition. A lock leaves no dead row version behind, so rows are locked and
    -- not updated; only settle does, which is rare, so that a waiting append in repeatable read fails.
    CREATE TABLE {schema}.partitions (
        stream_id int NOT NULL,
        partition int NOT NULL,
        settled int NOT NULL DEFAULT 0,
        PRIMARY KEY (stream_id, partition)
    ) USING heap;

    -- The log: one row a batch. The bodies stand one after the other; `ends` says where each ends, in
    -- four bytes each, the low one first: an int[] would be taken apart and put together at each end of
    -- the line, 30 us for 1,000. Attributes (key, headers, timestamp) the same, NULL where no message
    -- has any. A batch that was trimmed and is kept for its id has no `ends`. Bodies and attributes are
    -- compressed (at the end of the schema) where the server can do it fast.
    CREATE TABLE {schema}.batches (
        stream_id int NOT NULL,
        partition int NOT NULL,
        base_offset bigint NOT NULL,
        count int NOT NULL,
        appended_at timestamptz NOT NULL,
        batch_id uuid NOT NULL,
        ends bytea,
        bodies bytea NOT NULL,
        attribute_ends bytea,
        attributes bytea,
        PRIMARY KEY (stream_id, partition, base_offset),
        CONSTRAINT batches_id UNIQUE (batch_id, stream_id, partition)
    ) USING heap;
    ALTER TABLE {schema}.batches
        ALTER COLUMN ends SET STORAGE EXTERNAL,
        ALTER COLUMN bodies SET STORAGE EXTERNAL,
        ALTER COLUMN attribute_ends SET STORAGE EXTERNAL,
        ALTER COLUMN attributes SET STORAGE EXTERNAL;

    -- What trimming left: where the log starts, which rows are still kept below, the greatest id of
    -- those that are not, and up to where rows were seen to have a thousand behind them. A ledger as
    -- well: each trim and sweep writes a new generation, the newest counts, and those from `oldest` on
    -- still stand here.
    CREATE TABLE {schema}.trim_state (
        stream_id int NOT NULL,
        partition int NOT NULL,
        generation bigint NOT NULL,
        start_offset bigint NOT NULL,
        emptied_below bigint NOT NULL DEFAULT 0,
        kept_from bigint NOT NULL DEFAULT 0,
        forgotten uuid,
        oldest bigint NOT NULL DEFAULT 1,
        spare_below bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (stream_id, partition, generation)
    ) USING heap;

    -- Ids that were settled as absent are refused for ever. An append without rows has nothing in
    -- the log, so its id stands here.
    CREATE TABLE {schema}.ids (
        batch_id uuid PRIMARY KEY,
        refused boolean NOT NULL
    ) USING heap;

    -- Who consumes. Updated when the owner changes, and once in 1,024 generations. A lease is of the
    -- incarnation of the server in which it was claimed, and of a process that may be in `members`.
    -- Acks stand from the offset `acks_from` on, and count from the epoch `acks_since` on.
    CREATE TABLE {schema}.leases (
        group_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        stream_id int NOT NULL,
        partition int NOT NULL,
        name text COLLATE "C" NOT NULL,
        owner uuid,
        epoch bigint NOT NULL DEFAULT 0,
        claimed_at timestamptz,
        incarnation bigint,
        member uuid,
        trimmed_below bigint NOT NULL DEFAULT 0,
        acks_from bigint NOT NULL DEFAULT 0,
        acks_since bigint NOT NULL DEFAULT 0,
        CONSTRAINT leases_name UNIQUE (stream_id, partition, name)
    ) USING heap WITH (fillfactor = 50);

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
    ) USING heap;
    -- Not by pglz, which takes 2 ms for a thousand ranges, where all else of a commit takes less than one.
    ALTER TABLE {schema}.positions
        ALTER COLUMN acked SET STORAGE EXTERNAL,
        ALTER COLUMN attempted SET STORAGE EXTERNAL,
        ALTER COLUMN attempts SET STORAGE EXTERNAL;

    -- Processes, each with the backend of one direct connection that it keeps open: when that is
    -- gone, so is the process, most likely.
    CREATE TABLE {schema}.members (
        member uuid PRIMARY KEY,
        pid int NOT NULL,
        backend_start timestamptz NOT NULL,
        incarnation bigint,
        registered_at timestamptz NOT NULL
    ) USING heap;

