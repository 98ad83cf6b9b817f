-- What the limits write. Bodies are stored as the storage stores them: never compressed.
CREATE TABLE blobs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE forwarded (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE rows (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body bytea NOT NULL);
CREATE TABLE places (reader int PRIMARY KEY, place bigint NOT NULL);
ALTER TABLE blobs ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE forwarded ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE rows ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO places VALUES (1, 0);
