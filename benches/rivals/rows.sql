-- A message as the Go library lays it out: a row with all of it as JSON, an index of its labels, and
-- a row that points to the newest revision of what it is about.
CREATE SEQUENCE revisions;
CREATE TABLE newest (id text PRIMARY KEY, revision bigint NOT NULL);
CREATE TABLE states (
    revision bigint NOT NULL, id text NOT NULL, state jsonb NOT NULL, labels jsonb,
    PRIMARY KEY (revision, id)
);
CREATE INDEX states_id ON states (id);
CREATE INDEX states_labels ON states USING gin (labels) WHERE labels IS NOT NULL;
