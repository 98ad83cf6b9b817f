-- Ways to append a batch: each gives offsets under the lock of its partition, and has a unique id.
CREATE TABLE partitions (stream int, partition int, PRIMARY KEY (stream, partition));
INSERT INTO partitions SELECT stream, 0 FROM generate_series(1, 20) stream;

-- The cuts between the messages are those of the array.
CREATE TABLE arrays (
    stream int, partition int, base_offset bigint, count int NOT NULL,
    appended_at timestamptz NOT NULL DEFAULT clock_timestamp(), batch_id uuid NOT NULL, bodies bytea[] NOT NULL,
    PRIMARY KEY (stream, partition, base_offset),
    UNIQUE (batch_id, stream, partition)
);
ALTER TABLE arrays ALTER COLUMN bodies SET STORAGE EXTERNAL;

-- The cuts stand beside the bytes. Neither is compressed, and what is over 2 kB is cut into pieces (TOAST).
CREATE TABLE external (
    stream int, partition int, base_offset bigint, count int NOT NULL,
    appended_at timestamptz NOT NULL DEFAULT clock_timestamp(), batch_id uuid NOT NULL, ends bytea NOT NULL,
    bodies bytea NOT NULL,
    PRIMARY KEY (stream, partition, base_offset),
    UNIQUE (batch_id, stream, partition)
);
ALTER TABLE external ALTER COLUMN ends SET STORAGE EXTERNAL, ALTER COLUMN bodies SET STORAGE EXTERNAL;

-- Whoever writes there cuts the rows so that they fit into a page.
CREATE TABLE plain (LIKE external INCLUDING ALL);
ALTER TABLE plain ALTER COLUMN ends SET STORAGE PLAIN, ALTER COLUMN bodies SET STORAGE PLAIN;

CREATE TABLE pglz (LIKE external INCLUDING ALL);
ALTER TABLE pglz ALTER COLUMN bodies SET STORAGE EXTENDED, ALTER COLUMN bodies SET COMPRESSION pglz;

-- Rows find their offset themselves: COPY can compute nothing.
CREATE TABLE copied (LIKE external INCLUDING ALL);

-- Locks the partition until the end of the transaction.
CREATE FUNCTION next_of_arrays(s int, p int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM partitions WHERE stream = s AND partition = p FOR NO KEY UPDATE;
    RETURN coalesce((
        SELECT base_offset + count FROM arrays WHERE stream = s AND partition = p
        ORDER BY base_offset DESC LIMIT 1), 0);
END $$;

CREATE FUNCTION next_of_external(s int, p int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM partitions WHERE stream = s AND partition = p FOR NO KEY UPDATE;
    RETURN coalesce((
        SELECT base_offset + count FROM external WHERE stream = s AND partition = p
        ORDER BY base_offset DESC LIMIT 1), 0);
END $$;

CREATE FUNCTION next_of_copied() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM partitions p WHERE p.stream = NEW.stream AND p.partition = NEW.partition FOR NO KEY UPDATE;
    NEW.base_offset := coalesce((
        SELECT c.base_offset + c.count FROM copied c WHERE c.stream = NEW.stream AND c.partition = NEW.partition
        ORDER BY c.base_offset DESC LIMIT 1), 0);
    RETURN NEW;
END $$;
CREATE TRIGGER next_of_copied BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION next_of_copied();

CREATE FUNCTION append_array(s int, p int, id uuid, given bytea[]) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    base bigint := next_of_arrays(s, p);
BEGIN
    INSERT INTO arrays (stream, partition, base_offset, count, batch_id, bodies)
        VALUES (s, p, base, cardinality(given), id, given) ON CONFLICT (batch_id, stream, partition) DO NOTHING;
    RETURN base;
END $$;
