-- Moves a piece of what committed transactions left. One row without a stream where nothing was moved.
SELECT coalesce(m.stream, ''), coalesce(m.partition, 0), coalesce(m.end_offset, 0),
    coalesce(m.now_seen, ''), m.is_more
FROM {schema}.move_outbox($1, $2, $3) m
