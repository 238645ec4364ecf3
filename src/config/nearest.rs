//! The known word that a misspelt one most resembles.

/// The one that `written` may have been meant for, if it resembles one at all.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let normal = normalized(written);
    let distances = known.into_iter().map(|word| (distance(&normal, &normalized(word)), word));
    let (distance, word) = distances.min()?;
    // A third of the letters wrong is another word, not a misspelling.
    (distance * 3 <= written.len().max(3)).then_some(word)
}

/// `waitReady` and `wait-ready` are `wait_ready` spelt differently.
fn normalized(word: &str) -> Vec<char> {
    word.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// Insertions, deletions and replacements of one letter between two words, and letters that changed
/// places with the next.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_finds_its_word() {
        let known = ["instances", "wait_ready", "max_restarts", "script", "list", "logs"];
        for (written, word) in [
            ("instnaces", Some("instances")),
            ("waitReady", Some("wait_ready")),
            ("max_restart", Some("max_restarts")),
            ("scripts", Some("script")),
            ("lst", Some("list")),
            ("lgos", Some("logs")),
            ("banana", None),
        ] {
            assert_eq!(nearest(written, known), word, "{written}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, steps) in [
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("same", "same", 0),
            ("restrat", "restart", 1),
        ] {
            assert_eq!(distance(&normalized(a), &normalized(b)), steps, "{a} {b}");
        }
    }
}
