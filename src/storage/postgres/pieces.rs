//! Pieces of what may be much: no statement does more than one, and what was done stays.

use std::sync::Arc;

use sqlx::postgres::PgRow;

use super::connect::Connections;
use super::executor::Executor;
use super::in_flight::InFlight;
use super::statements::Statement;
use super::value::Value;
use crate::error::Result;
use crate::sync::{Mutex, MutexGuard};

/// A statement looks at so many rows at most, or has so many values.
pub(super) const MOST_ROWS: usize = 1_000;
/// A statement reads, writes or deletes so many bytes at most, if it is more than one row.
const MOST_BYTES: u64 = 16 << 20;
/// Pieces grow again once so many in a row have succeeded.
const GROWS_AFTER: u32 = 32;

/// How large the pieces of one kind of work are. A piece that takes too long goes again with half of it.
#[derive(Debug, Default)]
pub(super) struct Pieces(
    /// Guards the size; taken alone.
    Mutex<PieceSize>,
);

#[derive(Debug, Default)]
struct PieceSize {
    halvings: u32,
    succeeded: u32,
}

/// What one statement does at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    rows: u64,
    bytes: u64,
}

impl Piece {
    fn after(halvings: u32) -> Self {
        let half = |most: u64| (most >> halvings).max(1);
        Self {
            rows: half(MOST_ROWS as u64),
            bytes: half(MOST_BYTES),
        }
    }

    fn values<'a>(self) -> [Value<'a>; 2] {
        [
            Value::Int(self.rows as i32),
            Value::Bigint(self.bytes as i64),
        ]
    }
}

impl Pieces {
    /// Runs a statement whose last two values say how much it does at most: rows and bytes. One that
    /// takes too long goes again with half of that, down to one row, unless the storage is being closed.
    pub(super) async fn run(
        &self,
        executor: &Arc<Executor>,
        in_flight: &InFlight,
        (pool, statement): (&Connections, &Statement),
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>> {
        loop {
            let piece = self.next();
            let values = [values, &piece.values()].concat();
            let fail = match executor.try_run(pool, statement, &values).await {
                Ok(rows) => {
                    self.was_done();
                    return Ok(rows);
                }
                Err(fail) => fail,
            };
            let goes_again = fail.took_too_long() && self.halve(piece) && !in_flight.is_closed();
            if !goes_again {
                return Err(executor.explain(fail, statement));
            }
            tracing::debug!(?piece, "a piece took too long: half of it is tried");
        }
    }

    fn next(&self) -> Piece {
        Piece::after(self.size().halvings)
    }

    fn was_done(&self) {
        let mut size = self.size();
        size.succeeded += 1;
        if size.succeeded >= GROWS_AFTER {
            size.succeeded = 0;
            size.halvings = size.halvings.saturating_sub(1);
        }
    }

    /// This piece took too long. Whether the next one is smaller.
    fn halve(&self, piece: Piece) -> bool {
        let mut size = self.size();
        size.succeeded = 0;
        // Others may have halved it meanwhile.
        if Piece::after(size.halvings) == piece && piece.rows > 1 {
            size.halvings += 1;
        }
        Piece::after(size.halvings).rows < piece.rows
    }

    fn size(&self) -> MutexGuard<'_, PieceSize> {
        self.0.lock()
    }
}

/// What is asked, and where its answers go: as much as goes into one statement.
pub(super) fn slices<'a, Q, A>(
    asked: &'a [Q],
    answers: &'a mut [A],
) -> impl Iterator<Item = (&'a [Q], &'a mut [A])> {
    asked.chunks(MOST_ROWS).zip(answers.chunks_mut(MOST_ROWS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_takes_too_long_is_halved_down_to_a_row_and_grows_again() {
        let pieces = Pieces::default();
        let most = pieces.next();
        assert_eq!((most.rows, most.bytes), (1_000, 16 << 20));
        assert!(pieces.halve(most));
        assert_eq!((pieces.next().rows, pieces.next().bytes), (500, 8 << 20));
        assert!(pieces.halve(most), "another one that began before");
        assert_eq!(pieces.next().rows, 500);
        while pieces.halve(pieces.next()) {}
        assert_eq!(pieces.next().rows, 1);
        for _ in 0..GROWS_AFTER * 9 {
            pieces.was_done();
        }
        assert_eq!(pieces.next(), most);
    }
}
