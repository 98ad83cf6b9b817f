//! Names that come near to one that is not there.

/// So many are told at most.
const MOST: usize = 3;

/// What to ask somebody who named what is not there; nothing if no name comes near.
pub(crate) fn did_you_mean<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    match &*nearest(wanted, names) {
        [] => String::new(),
        [others @ .., last] if !others.is_empty() => {
            format!("; did you mean {} or {last}?", others.join(", "))
        }
        [one, ..] => format!("; did you mean {one}?"),
    }
}

/// The names that are nearest to one, the nearest first.
fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted: Vec<char> = fold(wanted).collect();
    let tolerance = wanted.len().div_ceil(3);
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let name_folded: Vec<char> = fold(name).collect();
            if wanted.len().abs_diff(name_folded.len()) > tolerance {
                return None;
            }
            let distance = distance(&wanted, &name_folded);
            (distance <= tolerance).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MOST).map(|(_, name)| name).collect()
}

/// Case is what people get wrong first.
fn fold(name: &str) -> impl Iterator<Item = char> {
    name.chars().flat_map(char::to_lowercase)
}

/// How many characters have to be put in, taken out, replaced, or swapped with their neighbour.
fn distance(one: &[char], other: &[char]) -> usize {
    let mut before = vec![0; other.len() + 1];
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let replaced = last[j] + usize::from(a != b);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_near_that_differ_by_a_slip() {
        let names = ["orders", "order", "Orders", "borders", "payments", "o"];
        let near = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(near("ordres"), ["Orders", "orders", "borders"]);
        assert_eq!(near("ORDER"), ["order", "Orders", "orders"]);
        assert_eq!(near("paymets"), ["payments"]);
        assert_eq!(near("nope"), [""; 0]);
        assert_eq!(near(""), [""; 0]);
    }

    #[test]
    fn a_question_is_asked_only_where_something_is_near() {
        let ask = |names: &[&'static str]| did_you_mean("ordres", names.iter().copied());
        assert_eq!(ask(&["payments"]), "");
        assert_eq!(ask(&["orders"]), "; did you mean orders?");
        let three = ["orders", "order", "borders"];
        assert_eq!(ask(&three), "; did you mean orders, borders or order?");
    }

    #[test]
    fn a_distance_counts_what_has_to_be_changed() {
        let between = |one: &str, other: &str| {
            let of = |text: &str| text.chars().collect::<Vec<char>>();
            distance(&of(one), &of(other))
        };
        assert_eq!(between("", ""), 0);
        assert_eq!(between("", "abc"), 3);
        assert_eq!(between("abc", "abc"), 0);
        assert_eq!(between("abcd", "acbd"), 1, "two are swapped");
        assert_eq!(between("kitten", "sitting"), 3);
    }
}
