//! What must hold of a stream and its copy.

use std::collections::HashSet;

/// What was found at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copied {
    /// The messages of the first stream, all different.
    pub(crate) input: Vec<u64>,
    /// Those of the last.
    pub(crate) output: Vec<u64>,
    /// The position of each group, and the end of its log.
    pub(crate) positions: Vec<(u64, u64)>,
}

impl Copied {
    /// Says what is wrong, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self {
            input,
            output,
            positions,
        } = self;
        let sent: HashSet<u64> = input.iter().copied().collect();
        let arrived: HashSet<u64> = output.iter().copied().collect();
        let doubled = output.len() - arrived.len();
        let lost = sent.difference(&arrived).count();
        let strange = arrived.difference(&sent).count();
        if [doubled, lost, strange] != [0; 3] {
            return Err(format!(
                "{doubled} doubled, {lost} lost, {strange} from nowhere, of {}",
                input.len()
            ));
        }
        if let Some(place) = (0..input.len()).find(|place| input[*place] != output[*place]) {
            return Err(format!("out of order from {place} on"));
        }
        match positions.iter().find(|(position, end)| position != end) {
            Some((position, end)) => Err(format!("a group is at {position}, its log at {end}")),
            None => Ok(()),
        }
    }
}

#[test]
fn the_checker_finds_each_fault() {
    let right = Copied {
        input: vec![1, 2, 3],
        output: vec![1, 2, 3],
        positions: vec![(3, 3), (3, 3)],
    };
    assert_eq!(right.check(), Ok(()));
    let of = |output: &[u64]| Copied {
        output: output.to_vec(),
        ..right.clone()
    };
    let behind = Copied {
        positions: vec![(3, 3), (2, 3)],
        ..right.clone()
    };
    for (wrong, wanted) in [
        (of(&[1, 2, 2, 3]), "1 doubled, 0 lost"),
        (of(&[1, 3]), "0 doubled, 1 lost"),
        (of(&[1, 2, 3, 4]), "0 lost, 1 from nowhere"),
        (of(&[1, 3, 2]), "out of order from 1 on"),
        (behind, "a group is at 2, its log at 3"),
    ] {
        let found = wrong.check().expect_err(wanted);
        assert!(found.contains(wanted), "{wanted}: {found}");
    }
}
