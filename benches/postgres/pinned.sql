-- Two ways that were not taken: the next offset and the position as rows that are updated.
CREATE TABLE heads (stream int PRIMARY KEY, next bigint NOT NULL);
CREATE TABLE log (stream int, base_offset bigint, body bytea NOT NULL, PRIMARY KEY (stream, base_offset));
CREATE TABLE groups (name text PRIMARY KEY, position bigint NOT NULL);
INSERT INTO heads VALUES (1, 0);
INSERT INTO groups VALUES ('g', 0);
