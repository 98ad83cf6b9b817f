//! What the schema answers to an append, and to the question what became of one.

use sqlx::postgres::PgRow;

use super::columns::{Reader, not_understood};
use crate::clock::from_micros;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::shared::refusals::{forgotten, no_partition};
use crate::storage::{Append, Appended, Id, Partition, WrittenRow};

/// What became of a row of an append. The row with the first of these decides what became of the whole:
/// one that is not written keeps the others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum AppendOutcome {
    /// A lease whose commit rides in the append was lost.
    Fenced,
    /// There is no such partition.
    Missing,
    /// The id was settled as absent.
    Refused,
    /// The append that it follows is not there yet.
    Early,
    /// The id is so old that it is not known any more whether it is there.
    Forgotten,
    /// The row is to be written, or was.
    New,
    /// The row was there before.
    Known,
}

impl AppendOutcome {
    /// The outcome as the functions of the schema write it. One that is not known is an error and no success: a
    /// newer schema may say what this code does not know.
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "fenced" => Self::Fenced,
            "missing" => Self::Missing,
            "refused" => Self::Refused,
            "early" => Self::Early,
            "forgotten" => Self::Forgotten,
            "new" => Self::New,
            "known" => Self::Known,
            unknown => {
                let text = format!(
                    "the schema of the storage answers an append with {unknown:?}, which this \
                     flowstream does not know: update flowstream, or restore the schema if somebody \
                     changed it"
                );
                return Err(Error::new(ErrorKind::Internal, text));
            }
        })
    }
}

/// What `begin_append` and `settle` of the schema say of one row.
#[derive(Debug)]
pub(super) struct Place {
    outcome: AppendOutcome,
    /// The number of the row, or of the commit that is fenced, counted from 0.
    number: usize,
    base: u64,
    /// When a row that is to be written is appended, in microseconds.
    appended_at: Option<i64>,
}

impl Place {
    fn read(row: &PgRow) -> Result<Self> {
        let mut columns = Reader::new(row);
        Ok(Self {
            outcome: AppendOutcome::parse(columns.text()?)?,
            number: (columns.int()?.ok_or_else(not_understood)? as usize).saturating_sub(1),
            base: columns.offset()?,
            appended_at: columns.bigint()?,
        })
    }

    fn written(&self) -> Result<WrittenRow> {
        Ok(WrittenRow {
            base_offset: self.base,
            appended_at: from_micros(self.appended_at.ok_or_else(not_understood)?),
        })
    }
}

/// The answer of a statement that appends or settles, a row each.
pub(super) fn read_places(rows: &[PgRow]) -> Result<Vec<Place>> {
    rows.iter().map(Place::read).collect()
}

/// What became of an append.
pub(super) fn appended(append: &Append, places: &[Place]) -> Result<Appended> {
    let decisive = places.iter().min_by_key(|place| place.outcome);
    let decisive = decisive.ok_or_else(not_understood)?;
    match decisive.outcome {
        AppendOutcome::Fenced => {
            let mut fenced: Vec<usize> = places.iter().map(|place| place.number).collect();
            fenced.sort_unstable();
            Ok(Appended::Fenced(fenced))
        }
        AppendOutcome::Missing => {
            let row = append.rows.get(decisive.number);
            Err(no_partition(&row.ok_or_else(not_understood)?.partition))
        }
        AppendOutcome::Refused => Ok(Appended::Refused),
        AppendOutcome::Early => Ok(Appended::Early),
        AppendOutcome::Forgotten => Err(forgotten(append.id)),
        AppendOutcome::New => {
            let rows = in_order(append.id, places, append.rows.len())?.into_iter();
            let written = rows.map(Place::written);
            Ok(Appended::Written(written.collect::<Result<_>>()?))
        }
        AppendOutcome::Known => {
            let rows = in_order(append.id, places, append.rows.len())?;
            Ok(Appended::Known(rows.iter().map(|row| row.base).collect()))
        }
    }
}

/// Where the rows of an append are that was asked for; `None` if it is refused from now on.
pub(super) fn settled(
    id: Id,
    partitions: &[Partition],
    places: &[Place],
) -> Result<Option<Vec<u64>>> {
    match places.first().map(|place| place.outcome) {
        Some(AppendOutcome::Refused) => Ok(None),
        Some(AppendOutcome::Forgotten) => Err(forgotten(id)),
        Some(AppendOutcome::Known) => {
            let rows = in_order(id, places, partitions.len())?;
            Ok(Some(rows.iter().map(|row| row.base).collect()))
        }
        _ => Err(not_understood()),
    }
}

/// The places in the order of the rows, one each; none of an append without rows, of which there is one
/// answer all the same.
fn in_order(id: Id, places: &[Place], count: usize) -> Result<Vec<&Place>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut ordered = vec![None; count];
    for place in places {
        *ordered.get_mut(place.number).ok_or_else(not_understood)? = Some(place);
    }
    let ordered: Option<Vec<&Place>> = ordered.into_iter().collect();
    // Some rows of it were trimmed so long ago that they are gone.
    ordered.ok_or_else(|| forgotten(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> Append {
        Append {
            id: Id::random(),
            after: None,
            rows: Vec::new(),
            commits: Vec::new(),
        }
    }

    fn place(outcome: AppendOutcome) -> Place {
        Place {
            outcome,
            number: 0,
            base: 0,
            appended_at: None,
        }
    }

    #[test]
    fn an_outcome_that_is_not_known_is_an_error() {
        let error = AppendOutcome::parse("postponed").expect_err("no success");
        assert_eq!(error.kind(), ErrorKind::Internal);
        let text = error.to_string();
        assert!(
            text.contains("\"postponed\"") && text.contains("update"),
            "{text}"
        );
        for (text, outcome) in [
            ("new", AppendOutcome::New),
            ("known", AppendOutcome::Known),
            ("fenced", AppendOutcome::Fenced),
        ] {
            assert_eq!(AppendOutcome::parse(text).expect(text), outcome);
        }
    }

    #[test]
    fn what_is_not_written_decides() {
        let append = append();
        let answer = |outcomes: &[AppendOutcome]| {
            let places: Vec<Place> = outcomes.iter().copied().map(place).collect();
            appended(&append, &places)
        };
        assert!(answer(&[]).is_err(), "no answer is none");
        let known = answer(&[AppendOutcome::Known]).expect("an answer");
        assert_eq!(known, Appended::Known(Vec::new()));
        let written = answer(&[AppendOutcome::Known, AppendOutcome::New]).expect("an answer");
        assert_eq!(written, Appended::Written(Vec::new()));
        let refused = answer(&[AppendOutcome::Known, AppendOutcome::Refused]).expect("an answer");
        assert_eq!(refused, Appended::Refused);
        let forgotten = answer(&[AppendOutcome::New, AppendOutcome::Forgotten]);
        assert!(forgotten.is_err(), "it is no success");
    }
}
