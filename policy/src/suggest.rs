//! "Did you mean …?": the nearest known word.

/// `; did you mean …?` where one of the known words is near enough.
pub(crate) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!("; did you mean `{near}`?"))
}

/// The known word with the fewest edits, where they are at most a third of its letters.
fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.into_iter().map(|known| (distance(word, known), known)).min()?;
    let allowed = near.1.chars().count().max(word.chars().count()).div_ceil(3);
    (near.0 <= allowed).then_some(near.1)
}

/// Adds a suggestion to what the TOML reader says of an unknown key or word.
pub(crate) fn improve(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_unknown = message.starts_with("unknown ");
    match quoted.next().filter(|_| is_unknown) {
        Some(word) => format!("{}{}", message.trim_end(), hint(word, quoted)),
        None => message.trim_end().to_owned(),
    }
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(one: &str, other: &str) -> usize {
    const LONGEST: usize = 64;
    let one: Vec<char> = one.chars().take(LONGEST).collect();
    let other: Vec<char> = other.chars().take(LONGEST).collect();
    let mut rows = vec![(0..=other.len()).collect::<Vec<usize>>()];
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut best = (rows[i][j + 1] + 1).min(row[j] + 1).min(rows[i][j] + usize::from(a != b));
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_near_and_nothing_else() {
        assert_eq!(hint("acton", ["action", "direction"]), "; did you mean `action`?");
        assert_eq!(hint("prot", ["port", "peer"]), "; did you mean `port`?");
        assert_eq!(hint("zzzzzz", ["port", "peer"]), "");
    }

    #[test]
    fn the_readers_message_gets_a_suggestion() {
        let message = "unknown field `acton`, expected one of `name`, `action`";
        assert_eq!(improve(message), format!("{message}; did you mean `action`?"));
        assert_eq!(improve("invalid type: integer `1`"), "invalid type: integer `1`");
    }
}
