-- Ways to append a batch: each gives offsets under the lock of its partition, and has a unique id.
CREATE TABLE partitions (stream int, partition int, PRIMARY KEY (stream, partition));
INSERT INTO partitions VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0);

-- The cuts between the messages are those of the array.
CREATE TABLE arrays (
    stream int, partition int, base_offset bigint, count int NOT NULL,
    appended_at timestamptz NOT NULL DEFAULT clock_timestamp(), batch_id uuid NOT NULL, bodies bytea[] NOT NULL,
    PRIMARY KEY (stream, partition, base_offset),
    UNIQUE (batch_id, stream, partition)
);
ALTER TABLE arrays ALTER COLUMN bodies SET STORAGE EXTERNAL;

-- The cuts stand beside the bytes.
CREATE TABLE ends (
    stream int, partition int, base_offset bigint, count int NOT NULL,
    appended_at timestamptz NOT NULL DEFAULT clock_timestamp(), batch_id uuid NOT NULL, ends int[] NOT NULL,
    bodies bytea NOT NULL,
    PRIMARY KEY (stream, partition, base_offset),
    UNIQUE (batch_id, stream, partition)
);
ALTER TABLE ends ALTER COLUMN ends SET STORAGE EXTERNAL, ALTER COLUMN bodies SET STORAGE EXTERNAL;

-- Locks the partition until the end of the transaction.
CREATE FUNCTION next_of_arrays(s int, p int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM partitions WHERE stream = s AND partition = p FOR NO KEY UPDATE;
    RETURN coalesce((
        SELECT base_offset + count FROM arrays WHERE stream = s AND partition = p
        ORDER BY base_offset DESC LIMIT 1), 0);
END $$;

CREATE FUNCTION next_of_ends(s int, p int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM partitions WHERE stream = s AND partition = p FOR NO KEY UPDATE;
    RETURN coalesce((
        SELECT base_offset + count FROM ends WHERE stream = s AND partition = p
        ORDER BY base_offset DESC LIMIT 1), 0);
END $$;

CREATE FUNCTION append_array(s int, p int, id uuid, given bytea[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    base bigint := next_of_arrays(s, p);
BEGIN
    INSERT INTO arrays (stream, partition, base_offset, count, batch_id, bodies)
        VALUES (s, p, base, cardinality(given), id, given) ON CONFLICT (batch_id, stream, partition) DO NOTHING;
    RETURN base;
END $$;
