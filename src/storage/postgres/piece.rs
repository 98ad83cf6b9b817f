//! Pieces of what may be much: no statement does more than one, and what was done stays.

use std::sync::{Mutex, MutexGuard, PoisonError};

use sqlx::postgres::PgRow;

use super::connect::Connections;
use super::core::{Core, Statement};
use super::value::Value;
use crate::error::Result;

/// A statement looks at so many rows at most, or has so many values.
pub(super) const MOST_ROWS: usize = 1_000;
/// And reads, writes or deletes so many bytes, if it is more than one row.
const MOST_BYTES: u64 = 16 << 20;
/// Pieces grow again once so many in a row have succeeded.
const GROWS_AFTER: u32 = 32;

/// How large the pieces of one kind of work are. One that takes too long goes again with half of it.
#[derive(Debug, Default)]
pub(super) struct Pieces(Mutex<State>);

#[derive(Debug, Default)]
struct State {
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
    fn next(&self) -> Piece {
        Piece::after(self.state().halvings)
    }

    fn was_done(&self) {
        let mut state = self.state();
        state.succeeded += 1;
        if state.succeeded >= GROWS_AFTER {
            state.succeeded = 0;
            state.halvings = state.halvings.saturating_sub(1);
        }
    }

    /// This one took too long. Whether the next one is smaller.
    fn halve(&self, piece: Piece) -> bool {
        let mut state = self.state();
        state.succeeded = 0;
        // Others may have halved it meanwhile.
        if Piece::after(state.halvings) == piece && piece.rows > 1 {
            state.halvings += 1;
        }
        Piece::after(state.halvings).rows < piece.rows
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    /// Runs a statement whose last two values say how much it does at most: rows and bytes. One that
    /// takes too long goes again with half of that, down to one row, unless the storage is being closed.
    pub(super) async fn run_piece(
        &self,
        pool: &Connections,
        statement: &Statement,
        pieces: &Pieces,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>> {
        loop {
            let piece = pieces.next();
            let values = [values, &piece.values()].concat();
            let fail = match self.try_run(pool, statement, &values).await {
                Ok(rows) => {
                    pieces.was_done();
                    return Ok(rows);
                }
                Err(fail) => fail,
            };
            let goes_again = fail.took_too_long() && pieces.halve(piece) && !self.gate.is_closed();
            if !goes_again {
                return Err(self.explain(fail, statement));
            }
            tracing::debug!(?piece, "a piece took too long: half of it is tried");
        }
    }
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
